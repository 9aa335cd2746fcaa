"""Warm invocations on the genuine runtime: one backend, no statement that the handler did not send."""

import re
import time
from collections import Counter
from typing import Any

import pytest

from lambda_pool.testing.server import Server
from tests.on_lambda.conftest import Start
from tests.support.speed import FULL
from tests.support.statements import QUESTIONS

INVOCATIONS = 1000 if FULL else 200
KILLS = 200 if FULL else 30


def statements_of(engine: str, server: Any, backend: int, log: str) -> Counter[str]:
    """What the server logged for one backend, without what belongs to the login."""
    if engine == "postgresql":
        found = re.findall(rf"\[{backend}\].*?(?:statement|execute [^:]*): (.*)", log)
    else:
        found = re.findall(rf"\s{backend} Query\t(.*)", log)
    return Counter(text.strip().lower() for text in found)


@pytest.mark.sampled(1, "4 s a case")
@pytest.mark.parametrize("autocommit", [False, True])
def test_many_invocations_one_backend_nothing_extra(start: Start, server: Server, autocommit: bool) -> None:
    engine = server.scheme
    runtime = start(server.url(), options={"autocommit": autocommit})
    earlier = len(server.log)  # before that, another session may have had its number
    backends = set()
    began = time.monotonic()
    for number in range(INVOCATIONS):
        answer = runtime.invoke({"sql": f"select {number % 10}"})
        assert answer.error is None
        backends.add(answer.payload["backend"])
    assert len(backends) == 1
    stats = answer.payload["stats"]
    assert (stats["opened"], stats["reused"], stats["pings"]) == (1, INVOCATIONS - 1, 0)
    time.sleep(0.2)
    seen = statements_of(engine, server, backends.pop(), server.log[earlier:])
    wanted = Counter({f"select {number}": INVOCATIONS // 10 for number in range(10)})
    extra = seen - wanted
    questions = [text for text in extra.elements() if text.startswith(QUESTIONS)]
    extra -= Counter(questions)
    # This comes after the cold start, in one round trip, and then once in 30 s.
    assert len(questions) <= (1 if engine == "postgresql" else 2) * (1 + int((time.monotonic() - began) / 30))
    assert wanted - seen == Counter()
    if engine == "postgresql":
        allowed = Counter() if autocommit else Counter({"begin": INVOCATIONS, "commit": INVOCATIONS})
    else:
        # The pool's settings for a session. A SELECT that reads no table opens no transaction, so there is no COMMIT.
        setup = f"set names utf8mb4, wait_timeout=60, autocommit={autocommit:d}, session_track_state_change=1"
        allowed = Counter({setup: 1})
    assert extra == allowed


@pytest.mark.sampled(1 / 2, "a kill in each of many invocations")
def test_killed_between_any_two_invocations(start: Start, server: Server) -> None:
    runtime = start(server.url())
    kill = "select pg_terminate_backend({}, 5000)" if server.scheme == "postgresql" else "kill {}"
    backends = set()
    for _ in range(KILLS):
        answer = runtime.invoke()
        assert answer.error is None, answer.error
        backends.add(answer.payload["backend"])
        runtime.freeze()
        server.execute(kill.format(answer.payload["backend"]))
        runtime.thaw()
    assert len(backends) == KILLS


@pytest.mark.sampled(1, "a second a case")
def test_on_every_python(start: Start, server: Server, any_python: str) -> None:
    runtime = start(server.url(), python=any_python)
    for number in range(5):
        assert runtime.invoke({"sql": f"select {number}"}).payload["rows"] == [[number]]
    failed = runtime.invoke({"fail": True})
    assert failed.error is not None
    assert failed.error["errorMessage"] == "half way"
    assert runtime.invoke().payload["stats"]["opened"] == 1
    assert not runtime.shutdown().timed_out
