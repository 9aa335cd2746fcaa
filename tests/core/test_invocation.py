"""How long somebody may wait: what was asked for, cut to what the invocation has left."""

import threading
from collections.abc import Iterator

import pytest

from lambda_pool.invocation import Invocation, Limit, current, latest, remaining


@pytest.fixture
def running() -> Iterator[list[int]]:
    """An invocation; the list holds the milliseconds that it has left."""
    left = [1000]
    token = current.set(Invocation(lambda: left[0], reserve=0.25))
    yield left
    current.reset(token)


def test_outside_of_an_invocation_nothing_is_cut() -> None:
    limit = Limit(60.0)
    assert remaining() is None
    assert 59.0 < limit.left() <= 60.0
    assert not limit.by_invocation


def test_a_wait_is_cut_to_what_is_left_without_the_reserve(running: list[int]) -> None:
    limit = Limit(60.0)
    assert remaining() == 0.75
    assert 0.5 < limit.left() <= 0.75
    assert limit.by_invocation


def test_a_shorter_wait_stays_as_it_is(running: list[int]) -> None:
    limit = Limit(0.5)
    assert 0.25 < limit.left() <= 0.5
    assert not limit.by_invocation


def test_after_the_deadline_nothing_is_waited_for(running: list[int]) -> None:
    running[0] = -1000
    limit = Limit(60.0)
    assert limit.left() <= 0.0
    assert limit.by_invocation


def test_what_ends_a_statement_in_time_is_not_cut(running: list[int]) -> None:
    limit = Limit(60.0, uncut=True)
    assert limit.left() > 59.0
    assert not limit.by_invocation


def test_an_invocation_that_does_not_know_its_end_cuts_nothing() -> None:
    token = current.set(Invocation(None))
    try:
        assert remaining() is None
        assert Limit(60.0).left() > 59.0
    finally:
        current.reset(token)


def test_a_thread_without_a_context_finds_the_latest() -> None:
    found: list[float | None] = []
    latest.invocation = Invocation(lambda: 1000, reserve=0.25)
    try:
        thread = threading.Thread(target=lambda: found.append(remaining()))
        thread.start()
        thread.join()
    finally:
        latest.invocation = None
    assert found == [0.75]
