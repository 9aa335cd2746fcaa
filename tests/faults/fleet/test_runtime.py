"""Twenty functions on the genuine runtime, more than the server has room for, three of them at work at a time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from lambda_pool.testing import LambdaRuntime, PostgresServer

FUNCTION = """
import os
import lambda_pool

POOL = lambda_pool.Pool(os.environ["URL"], metrics="off")

@POOL.handler
def handler(event, context, conn):
    conn.execute("select pg_sleep(0.05)")
    return {"backend": conn.info.backend_pid, "opened": POOL.stats().opened}
"""
FUNCTIONS, AT_WORK, ROUNDS = 20, 3, 3


@pytest.fixture(scope="module")
def small() -> Iterator[PostgresServer]:
    """Seven of its ten connections are for others than administrators."""
    with PostgresServer(tls=False, max_connections=10, hba=["host all app 127.0.0.1/32 trust"]) as server:
        server.execute("create role app login")
        yield server


def invoke(runtime: LambdaRuntime) -> str:
    """Thaw it, invoke it and freeze it. Out: its error, if any."""
    runtime.thaw()
    answer = runtime.invoke()
    runtime.freeze()
    return "" if answer.error is None else str(answer.error)


@pytest.mark.sampled(1 / 3, "21 s")
@pytest.mark.runtime
@pytest.mark.timeout(300)
def test_twenty_functions_on_ten_connections(small: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(FUNCTION)
    env = {"URL": f"postgresql://app@127.0.0.1:{small.port}/postgres?sslmode=disable"}
    with ExitStack() as stack:

        def start(number: int) -> LambdaRuntime:
            runtime = LambdaRuntime("function.handler", code_dir=tmp_path, env=env, function_name=f"function-{number}")
            return stack.enter_context(runtime)

        with ThreadPoolExecutor(AT_WORK) as threads:
            runtimes = list(threads.map(start, range(FUNCTIONS)))
            errors = [error for _ in range(ROUNDS) for error in threads.map(invoke, runtimes)]
        assert [error for error in errors if error] == []
        ((sessions,),) = small.execute("select count(*) from pg_stat_activity where usename = 'app'")
        assert sessions <= 7 * 0.6
