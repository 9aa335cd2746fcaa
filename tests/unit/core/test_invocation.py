"""How long somebody may wait: what was asked for, cut to what the invocation has left."""

import threading
from collections.abc import Iterator

import pytest

from lambda_pool.invocation import Deadline, current, remaining, running
from tests.support.invoked import invoked


@pytest.fixture
def left() -> Iterator[list[int]]:
    """An invocation; the list holds the milliseconds that it has left."""
    left = [1000]
    with invoked(lambda: left[0], reserve=0.25):
        yield left


def test_outside_of_an_invocation_nothing_is_cut() -> None:
    deadline = Deadline(60.0)
    assert remaining() is None
    assert current() is None
    assert 59.0 < deadline.left() <= 60.0
    assert not deadline.by_invocation


def test_a_wait_is_cut_to_what_is_left_without_the_reserve(left: list[int]) -> None:
    deadline = Deadline(60.0)
    assert remaining() == 0.75
    assert 0.5 < deadline.left() <= 0.75
    assert deadline.by_invocation


def test_a_shorter_wait_stays_as_it_is(left: list[int]) -> None:
    deadline = Deadline(0.5)
    assert 0.25 < deadline.left() <= 0.5
    assert not deadline.by_invocation


def test_after_the_deadline_nothing_is_waited_for(left: list[int]) -> None:
    left[0] = -1000
    deadline = Deadline(60.0)
    assert deadline.left() <= 0.0
    assert deadline.by_invocation


def test_what_ends_a_statement_in_time_is_not_cut(left: list[int]) -> None:
    deadline = Deadline(60.0, uncut=True)
    assert deadline.left() > 59.0
    assert not deadline.by_invocation


def test_an_invocation_that_does_not_know_its_end_cuts_nothing() -> None:
    with invoked(None):
        assert remaining() is None
        assert Deadline(60.0).left() > 59.0


def test_an_invocation_without_a_context_cuts_nothing_even_beside_one_that_has_one(left: list[int]) -> None:
    found: list[float | None] = []

    def other() -> None:
        running[threading.get_ident()] = None
        found.append(remaining())
        del running[threading.get_ident()]

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [None]


def test_a_thread_without_an_invocation_finds_the_one_that_began_last(left: list[int]) -> None:
    found: list[float | None] = []
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with invoked(lambda: 5000, reserve=0.25):
            inside.set()
            assert leave.wait(10)

    def look() -> None:
        thread = threading.Thread(target=lambda: found.append(remaining()))
        thread.start()
        thread.join()

    look()
    later = threading.Thread(target=other)
    later.start()
    assert inside.wait(10)
    look()
    leave.set()
    later.join()
    assert found == [0.75, 4.75]
    assert remaining() == 0.75
