"""The embedded metric format, written down from its specification, and how CloudWatch adds such lines up.

https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 1024 * 1024
DAY = 24 * 3600 * 1000
_SIZES = [prefix + size for size in ("bytes", "bits") for prefix in ("", "Kilo", "Mega", "Giga", "Tera")]
_RATES = [size.capitalize() for size in _SIZES]
UNITS = frozenset(
    ["Seconds", "Microseconds", "Milliseconds", "Percent", "Count", "Count/Second", "None"]
    + _RATES
    + [f"{rate}/Second" for rate in _RATES]
)
NAMESPACE = re.compile(r"[0-9A-Za-z.\-_/#:]+")


class NotEmf(AssertionError):
    """The object breaks the specification."""


def need(condition: bool, text: str) -> None:
    if not condition:
        raise NotEmf(text)


def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    need(len({name for name, _ in pairs}) == len(pairs), "a member stands twice")
    return dict(pairs)


def not_a_number(text: str) -> float:
    raise NotEmf(f"{text} is no JSON")


def validate(line: str) -> dict[str, Any]:
    """One line of log as a valid EMF document. Raises NotEmf."""
    need(len(line.encode()) <= MOST_BYTES, "more than 1 MB")
    need("\n" not in line.strip("\n"), "more than one line")
    root = json.loads(line, object_pairs_hook=no_twins, parse_constant=not_a_number)
    need(isinstance(root, dict), "the root is no object")
    metadata = root.get("_aws")
    need(isinstance(metadata, dict), "no _aws")
    need(set(metadata) == {"Timestamp", "CloudWatchMetrics"}, f"members of _aws: {sorted(metadata)}")
    timestamp = metadata["Timestamp"]
    need(type(timestamp) is int, "Timestamp is no integer")
    now = time.time() * 1000
    need(now - 14 * DAY < timestamp < now + DAY / 12, "Timestamp is too far from now")
    directives = metadata["CloudWatchMetrics"]
    need(isinstance(directives, list) and len(directives) > 0, "no directive")
    for directive in directives:
        validate_directive(root, directive)
    return dict(root)


def validate_directive(root: dict[str, Any], directive: dict[str, Any]) -> None:
    need(set(directive) == {"Namespace", "Dimensions", "Metrics"}, f"members of a directive: {sorted(directive)}")
    namespace = directive["Namespace"]
    need(isinstance(namespace, str) and 1 <= len(namespace) <= 255, "length of the namespace")
    need(NAMESPACE.fullmatch(namespace) is not None, "characters of the namespace")
    sets = directive["Dimensions"]
    need(isinstance(sets, list) and len(sets) > 0, "no dimension set")
    for names in sets:
        need(isinstance(names, list) and len(names) <= 30, "more than 30 dimensions")
        need(len(set(names)) == len(names), "a dimension twice")
        for name in names:
            need(isinstance(name, str) and 1 <= len(name) <= 250 and name.isascii(), "name of a dimension")
            value = root.get(name)
            need(isinstance(value, str) and 1 <= len(value) <= 1024, f"value of the dimension {name}: {value!r}")
            assert isinstance(value, str)
            need(value.isascii() and bool(value.strip()) and not value.startswith(":"), f"{name}: {value!r}")
    metrics = directive["Metrics"]
    need(isinstance(metrics, list) and 1 <= len(metrics) <= 100, "number of metrics")
    names = [metric.get("Name") for metric in metrics]
    need(len(set(names)) == len(names), "a metric twice")
    for metric in metrics:
        need({"Name"} <= set(metric) <= {"Name", "Unit", "StorageResolution"}, f"members of a metric: {sorted(metric)}")
        need(isinstance(metric["Name"], str) and 1 <= len(metric["Name"]) <= 255, "name of a metric")
        need(metric.get("Unit", "None") in UNITS, f"unit {metric.get('Unit')}")
        need(metric.get("StorageResolution", 60) in {1, 60}, "resolution")
        value = root.get(metric["Name"])
        values = value if isinstance(value, list) else [value]
        need(1 <= len(values) <= 100, f"{len(values)} values of {metric['Name']}")
        for each in values:
            if isinstance(each, bool) or not isinstance(each, int | float) or not math.isfinite(each):
                raise NotEmf(f"value {each!r} of {metric['Name']}")


@dataclass
class Sums:
    """What CloudWatch makes of the lines, by metric name (and by pool, namespace and so on only where asked)."""

    documents: list[dict[str, Any]] = field(default_factory=list)

    @property
    def metrics(self) -> list[tuple[dict[str, Any], dict[str, Any], str, list[float]]]:
        """(document, directive, metric, values) of everything."""
        found = []
        for document in self.documents:
            for directive in document["_aws"]["CloudWatchMetrics"]:
                for metric in directive["Metrics"]:
                    value = document[metric["Name"]]
                    values = value if isinstance(value, list) else [value]
                    found.append((document, directive, metric["Name"], values))
        return found

    def values(self, metric: str, **properties: Any) -> list[float]:
        """All values of a metric in documents that have these properties."""
        return [
            value
            for document, _, name, values in self.metrics
            if name == metric and all(document.get(key) == wanted for key, wanted in properties.items())
            for value in values
        ]

    def sum(self, metric: str, **properties: Any) -> float:
        return sum(self.values(metric, **properties))

    def totals(self) -> dict[tuple[str, str], float]:
        """The sum of each (pool, metric)."""
        found: Counter[tuple[str, str]] = Counter()
        for document, _, name, values in self.metrics:
            found[document["pool"], name] += sum(values)  # type: ignore[assignment]
        return dict(found)

    def units(self) -> dict[str, str]:
        return {
            metric["Name"]: metric["Unit"]
            for document in self.documents
            for directive in document["_aws"]["CloudWatchMetrics"]
            for metric in directive["Metrics"]
        }

    def namespaces(self) -> set[str]:
        return {directive["Namespace"] for _, directive, _, _ in self.metrics}


def read(text: str | Iterable[str]) -> Sums:
    """The EMF lines of a log, each of them validated; other lines are passed over."""
    lines = text.splitlines() if isinstance(text, str) else text
    return Sums([validate(line) for line in lines if line.startswith('{"_aws"')])
