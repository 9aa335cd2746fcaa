"""What is loaded when: proven in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PRELUDE = """
import json, sys
from lambda_pool.api import core_of
from lambda_pool.events import *

def loaded(*names):
    return sorted(name for name in names if name in sys.modules)

def told(observer, *, cold=False, failed=False):
    observer.on_event(Returned("orders", 0.001, 2e-6, True, 1))
    observer.on_event(InvocationEnded("orders", failed, cold, "r"))

def answer(value):
    print("ANSWER " + json.dumps(value))
"""


def run(code: str, **environment: str | None) -> object:
    """What the code passes to `answer`, in a new process inside of Lambda."""
    everything = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "AWS_LAMBDA_FUNCTION_NAME": "orders-fn",
        **environment,
    }
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        env={name: value for name, value in everything.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    return json.loads(line.removeprefix("ANSWER "))


SLOW = ("aws_lambda_powertools", "boto3", "botocore", "opentelemetry", "psycopg", "pymysql", "asyncio")


def test_a_pool_in_lambda_loads_no_writer() -> None:
    code = """
    from lambda_pool.testing import FakeDriver
    pool = FakeDriver().pool()
    answer([[type(observer).__name__ for observer in core_of(pool).events.observers], loaded(*SLOW)])
    """
    assert run(f"SLOW = {SLOW!r}\n" + textwrap.dedent(code)) == [["EmfMetrics"], []]


def test_no_report_loads_powertools() -> None:
    code = """
    from lambda_pool.metrics.emf import EmfMetrics
    emf = EmfMetrics(interval=0)
    told(emf, cold=True)
    told(emf, failed=True)
    told(emf)
    emf.on_event(Closing("orders"))
    answer(loaded("aws_lambda_powertools"))
    """
    assert run(code) == []


@pytest.mark.parametrize(
    ("metrics", "observers"),
    [("off", []), ("emf", ["EmfMetrics"]), ("cloudwatch", ["PutMetrics"]), ("auto", ["EmfMetrics"])],
)
def test_the_option_chooses(metrics: str, observers: list[str]) -> None:
    code = """
    from lambda_pool.testing import FakeDriver
    pool = FakeDriver().pool()
    answer([[type(observer).__name__ for observer in core_of(pool).events.observers], loaded("botocore")])
    """
    assert run(code, LAMBDA_POOL_METRICS=metrics) == [observers, []]


def test_outside_of_lambda_nobody_listens() -> None:
    code = """
    from lambda_pool.testing import FakeDriver
    answer([bool(core_of(FakeDriver().pool()).events.observers), loaded("lambda_pool.metrics")])
    """
    assert run(code, AWS_LAMBDA_FUNCTION_NAME=None) == [False, []]
