"""The validator itself: what breaks the specification is refused."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from .emf_schema import NotEmf, read, validate


def example() -> dict[str, Any]:
    return {
        "_aws": {
            "Timestamp": int(time.time() * 1000),
            "CloudWatchMetrics": [
                {
                    "Namespace": "shop",
                    "Dimensions": [["service"]],
                    "Metrics": [{"Name": "Sold", "Unit": "Count"}, {"Name": "Took", "Unit": "Milliseconds"}],
                }
            ],
        },
        "service": "orders",
        "Sold": 3,
        "Took": [1.5, 2],
        "request_id": "abc",
    }


def directive(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["_aws"]["CloudWatchMetrics"][0]
    return found


def test_a_good_document_is_taken() -> None:
    sums = read("START\n" + json.dumps(example(), separators=(",", ":")) + "\nEND")
    assert (sums.sum("Sold"), sums.sum("Took"), sums.namespaces()) == (3, 3.5, {"shop"})


BREAKAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no metadata": lambda d: d.pop("_aws"),
    "no timestamp": lambda d: d["_aws"].pop("Timestamp"),
    "seconds": lambda d: d["_aws"].update(Timestamp=int(time.time())),
    "float timestamp": lambda d: d["_aws"].update(Timestamp=time.time() * 1000),
    "no directive": lambda d: d["_aws"].update(CloudWatchMetrics=[]),
    "no namespace": lambda d: directive(d).update(Namespace=""),
    "namespace with a space": lambda d: directive(d).update(Namespace="my shop"),
    "no dimension set": lambda d: directive(d).update(Dimensions=[]),
    "31 dimensions": lambda d: (
        directive(d).update(Dimensions=[[f"d{n}" for n in range(31)]]),
        d.update({f"d{n}": "x" for n in range(31)}),
    ),
    "dimension without a value": lambda d: d.pop("service"),
    "dimension that is a number": lambda d: d.update(service=3),
    "empty dimension": lambda d: d.update(service=""),
    "dimension beyond ASCII": lambda d: d.update(service="größe"),
    "no metrics": lambda d: directive(d).update(Metrics=[]),
    "101 metrics": lambda d: (
        directive(d).update(Metrics=[{"Name": f"m{n}"} for n in range(101)]),
        d.update({f"m{n}": 1 for n in range(101)}),
    ),
    "metric twice": lambda d: directive(d)["Metrics"].append({"Name": "Sold"}),
    "metric without a value": lambda d: d.pop("Sold"),
    "text value": lambda d: d.update(Sold="3"),
    "no values": lambda d: d.update(Took=[]),
    "101 values": lambda d: d.update(Took=[1] * 101),
    "unknown unit": lambda d: directive(d)["Metrics"][0].update(Unit="Counts"),
    "unknown member": lambda d: directive(d)["Metrics"][0].update(Colour="red"),
    "not a number": lambda d: d.update(Sold=float("nan")),
    "1 MB": lambda d: d.update(text="x" * 1024 * 1024),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_bad_document_is_refused(name: str) -> None:
    document = copy.deepcopy(example())
    BREAKAGES[name](document)
    with pytest.raises(NotEmf):
        validate(json.dumps(document))
