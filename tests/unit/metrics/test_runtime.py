"""Metrics of real invocations, read from the log of the genuine runtime and added up."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import LambdaRuntime

from .emf_schema import read

pytestmark = pytest.mark.runtime

FUNCTION = """
import os, sys
import lambda_pool

@lambda_pool.handler
def handler(event, context, conn):
    event = event or {}
    conn.execute("select 1")
    if event.get("fail"):
        raise RuntimeError("half way")
    if event.get("die"):
        conn.execute("select pg_terminate_backend(pg_backend_pid())")
    return {"backend": conn.info.backend_pid}
"""

Start = Callable[..., LambdaRuntime]


@pytest.fixture
def start(tmp_path: Path, lambda_rie: Path, pg_url: str) -> Iterator[Start]:
    """start(code=…, **environment): an environment that ends with the test."""
    started: list[LambdaRuntime] = []

    def begin(code: str = FUNCTION, **environment: str) -> LambdaRuntime:
        (tmp_path / "function.py").write_text(textwrap.dedent(code))
        variables = {"LAMBDA_POOL_URL": pg_url, "LAMBDA_POOL_NAME": "orders", **environment}
        if sys.version_info < (3, 12):
            # The runtime of Python 3.11 waits on the main thread, where no signal handler of Python's can run.
            variables["AWS_EXECUTION_ENV"] = "AWS_Lambda_python3.12"
        runtime = LambdaRuntime("function.handler", code_dir=tmp_path, env=variables, function_name="orders-fn")
        runtime.start()
        started.append(runtime)
        return runtime

    yield begin
    for runtime in started:
        runtime.close()


@pytest.mark.sampled(1 / 3, "3 s")
def test_lines_add_up_to_what_the_invocations_did(start: Start) -> None:
    runtime = start()
    first = runtime.invoke()
    sums = read(first.log)
    assert sums.sum("ConnectionsOpened", pool="orders", service="orders-fn", backend_id=first.payload["backend"]) == 1
    assert len(sums.values("CheckoutTime")) == len(sums.values("HoldTime")) == 1
    assert sums.values("CheckoutTime")[0] > sums.values("ConnectTime")[0] > 100
    for number in range(150):
        answer = runtime.invoke()
        assert answer.error is None
        assert (len(read(answer.log).documents) > 0) is (number == 99)
    failed = runtime.invoke({"fail": True})
    assert failed.error is not None
    everything = read(runtime.log)
    assert everything.sum("ConnectionsOpened") == 1
    assert everything.sum("ConnectionsReused") == 151
    assert len(everything.values("CheckoutTime")) == len(everything.values("HoldTime")) == 152
    assert everything.sum("TransactionsRolledBack", reason="error") == 1
    assert set(everything.values("ConnectionsOpen")) == set(everything.values("ConnectionsInUse")) == {1}


def test_a_lost_connection_has_its_reason_and_its_request(start: Start) -> None:
    runtime = start()
    before = runtime.invoke().payload["backend"]
    runtime.invoke({"die": True})
    after = runtime.invoke().payload["backend"]
    runtime.invoke({"fail": True})
    sums = read(runtime.log)
    assert sums.sum("ConnectionsClosed", reason="broken", backend_id=before) == 1
    assert sums.sum("ConnectionsOpened", backend_id=after) == 1
    ids = {document["request_id"] for document in sums.documents if "backend_id" in document}
    assert len(ids) == 3
    assert all(f"START RequestId: {found}" in runtime.log for found in ids)


def test_what_was_gathered_before_a_freeze_is_told_after_it(start: Start) -> None:
    runtime = start(LAMBDA_POOL_METRICS_INTERVAL="1")
    runtime.invoke()
    runtime.invoke()
    runtime.freeze()
    time.sleep(1.1)
    runtime.thaw()
    assert read(runtime.invoke().log).sum("ConnectionsReused") == 2


def test_a_shutdown_tells_the_rest(start: Start) -> None:
    runtime = start()
    for _ in range(5):
        runtime.invoke()
    assert read(runtime.log).sum("ConnectionsReused") == 0
    rest = read(runtime.shutdown().log)
    assert rest.sum("ConnectionsReused") == len(rest.values("HoldTime")) == 4


def test_refused_connections_are_told_at_once(start: Start) -> None:
    code = """
    import lambda_pool

    @lambda_pool.handler(on_unavailable=lambda event, context, error: {"busy": True})
    def handler(event, context, conn):
        return {}
    """
    runtime = start(code, LAMBDA_POOL_URL="postgresql://app@127.0.0.1:1/app", LAMBDA_POOL_TIMEOUT="0.2")
    assert runtime.invoke().payload == {"busy": True}
    answer = runtime.invoke()
    sums = read(answer.log)
    assert sums.sum("ConnectErrors", error_class="unreachable") >= 1
    assert sums.sum("PoolTimeouts") == 1


def test_switched_off(start: Start) -> None:
    runtime = start(LAMBDA_POOL_METRICS="off")
    answers: list[Any] = [runtime.invoke({"fail": fail}) for fail in (False, True)]
    assert [read(answer.log).documents for answer in answers] == [[], []]
