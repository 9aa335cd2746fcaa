"""Failovers between real servers, as a function on the genuine runtime sees them."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import Invocation, LambdaRuntime
from tests.support.names import Names
from tests.support.wire import Tap

from .conftest import FATES, Pair

pytestmark = pytest.mark.runtime

FUNCTION = """
import os, time
from pathlib import Path
from lambda_pool import Pool
from lambda_pool.endpoints.base import Endpoint

class FromFile:
    '''Knows where the writer is, and looks again when that failed.'''
    has_reader = False
    known = None
    def resolve(self, role, timeout):
        if self.known is None:
            self.known = Endpoint("localhost", int(Path(os.environ["WRITER"]).read_text()))
        return self.known
    def failed(self, endpoint):
        self.known = None
    forget = failed

POOL = Pool(os.environ["URL"], endpoint=FromFile() if "WRITER" in os.environ else None)

def insert(conn, number):
    with conn.cursor() as cursor:
        cursor.execute(f"insert into orders values ({number})")
        cursor.execute("select inet_server_port()" if "postgresql" in os.environ["URL"] else "select @@port")
        return cursor.fetchone()[0]

@POOL.handler
def plain(event, context, conn):
    return insert(conn, event)

@POOL.handler
def replaying(event, context):
    def work(conn):
        port = insert(conn, event["row"])
        pause = event.get("pause")
        if pause and Path(pause).exists():
            Path(pause).unlink()
            while Path(pause + ".done").exists() is False:
                time.sleep(0.01)
        insert(conn, event["row"] + 1)
        return port
    return POOL.run(work)
"""


class Stage:
    """A pair, a function that uses it, and the way in which the function finds the writer."""

    def __init__(self, stack: ExitStack, pair: Pair, folder: Path, way: str, handler: str) -> None:
        self.pair = pair
        self._file = folder / "writer"
        (folder / "function.py").write_text(FUNCTION)
        env: dict[str, str] = {"URL": pair.url()}
        prefix: tuple[str, ...] = ()
        self._point: Callable[[int], object] = lambda port: self._file.write_text(str(port))
        if way == "endpoint":
            env["WRITER"] = str(self._file)
        else:
            # Two addresses with the same port, as two hosts have them.
            old = stack.enter_context(Tap(pair.old.port, address="127.0.0.2"))
            stack.enter_context(Tap(pair.new.port, address="127.0.0.3", port=old.port))
            names = stack.enter_context(Names())
            addresses = {pair.old.port: "127.0.0.2", pair.new.port: "127.0.0.3"}
            env["URL"] = pair.url("writer.test", old.port)
            self._point = lambda port: names.point({"writer.test": addresses[port]})
            prefix = names.prefix
        self._point(pair.old.port)
        self.runtime = stack.enter_context(
            LambdaRuntime(f"function.{handler}", code_dir=folder, env=env, command_prefix=prefix)
        )

    def switch(self) -> None:
        """Now the new writer is found."""
        self._point(self.pair.new.port)

    def invoke(self, event: object) -> Any:
        answer = self.runtime.invoke(event)
        assert answer.error is None, answer.error
        return answer.payload


Start = Callable[[str, str], Stage]


@pytest.fixture
def start(pair: Pair, tmp_path: Path) -> Iterator[Start]:
    """start(way, handler)."""
    with ExitStack() as stack:
        yield lambda way, handler: Stage(stack, pair, tmp_path, way, handler)


@pytest.mark.parametrize("fate", FATES[:2])
@pytest.mark.parametrize("way", ["endpoint", "names"])
@pytest.mark.sampled(1, "starts two servers and the runtime")
def test_a_failover_during_a_freeze_is_not_noticed(pair: Pair, start: Start, way: str, fate: str) -> None:
    stage = start(way, "plain")
    ports = [stage.invoke(number) for number in range(3)]
    stage.runtime.freeze()
    pair.fail_over(fate)
    stage.switch()
    stage.runtime.thaw()
    ports += [stage.invoke(number) for number in range(3, 6)]
    assert ports == [pair.old.port] * 3 + [pair.new.port] * 3
    # A MariaDB that takes over here was not a replica.
    assert pair.rows() == ([0, 1, 2, 3, 4, 5] if pair.engine == "postgresql" else [3, 4, 5])


@pytest.mark.parametrize("way", ["endpoint", "names"])
@pytest.mark.sampled(1 / 2, "starts two servers and the runtime")
def test_names_that_are_late_are_waited_for(pair: Pair, start: Start, way: str) -> None:
    """An invocation that comes before the address has changed waits for it, and asks again at each attempt."""
    stage = start(way, "plain")
    stage.invoke(0)
    stage.runtime.freeze()
    pair.fail_over("stopped")
    stage.runtime.thaw()
    late = threading.Timer(1.0, stage.switch)
    late.start()
    assert stage.invoke(1) == pair.new.port
    late.join()


@pytest.mark.parametrize("way", ["endpoint", "names"])
@pytest.mark.sampled(2, "starts two servers and the runtime")
def test_a_silent_demotion_costs_one_error(pair: Pair, start: Start, way: str) -> None:
    """Only a refused write shows that the server at the other end of a working connection no longer accepts writes."""
    stage = start(way, "plain")
    stage.invoke(0)
    stage.runtime.freeze()
    pair.fail_over("demoted")
    stage.switch()
    stage.runtime.thaw()
    answers = [stage.runtime.invoke(number) for number in range(1, 4)]
    assert [answer.error is None for answer in answers] == [False, True, True]
    assert "read-only" in (answers[0].error or {})["errorMessage"]
    assert [answer.payload for answer in answers[1:]] == [pair.new.port] * 2


@pytest.mark.parametrize("way", ["endpoint", "names"])
@pytest.mark.sampled(1, "starts two servers and the runtime")
def test_a_silent_demotion_costs_run_no_error(pair: Pair, start: Start, way: str) -> None:
    stage = start(way, "replaying")
    stage.invoke({"row": 0})
    stage.runtime.freeze()
    pair.fail_over("demoted")
    stage.switch()
    stage.runtime.thaw()
    assert stage.invoke({"row": 2}) == pair.new.port
    assert pair.rows() == ([0, 1, 2, 3] if pair.engine == "postgresql" else [2, 3])


@pytest.mark.parametrize("fate", FATES[:2])
@pytest.mark.parametrize("way", ["endpoint", "names"])
@pytest.mark.sampled(2, "starts two servers and the runtime")
def test_run_replays_across_a_failover_in_its_middle(
    pair: Pair, start: Start, tmp_path: Path, way: str, fate: str
) -> None:
    stage = start(way, "replaying")
    stage.invoke({"row": 0})
    pause = tmp_path / "pause"
    pause.touch()
    answers: list[Invocation] = []
    event = {"row": 2, "pause": str(pause)}
    invocation = threading.Thread(target=lambda: answers.append(stage.runtime.invoke(event)))
    invocation.start()
    until = time.monotonic() + 20
    while pause.exists():
        assert time.monotonic() < until, "the function did not begin"
        time.sleep(0.01)
    pair.fail_over(fate)
    stage.switch()
    Path(f"{pause}.done").touch()
    invocation.join(60)
    [answer] = answers
    assert answer.error is None, answer.error
    assert answer.payload == pair.new.port
    assert pair.rows() == ([0, 1, 2, 3] if pair.engine == "postgresql" else [2, 3])
