"""What an exception out of a signal handler leaves behind on the shelf, and who clears it away.

Every place where such an exception may strike is tried in test_interrupts.py; here stands what each leftover means.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from lambda_pool.endpoints.base import Role
from lambda_pool.shelf import Shelf, Waiter
from lambda_pool.slot import Slot, State


def new(shelf: Shelf) -> Slot:
    slot = shelf.reserve(Role.WRITER)
    assert isinstance(slot, Slot)
    return slot


def lent(shelf: Shelf) -> Slot:
    slot = new(shelf)
    slot.shift(State.CONNECTING, State.LENT)
    return slot


def test_a_place_in_the_queue_that_its_thread_left_behind_is_given_up() -> None:
    shelf = Shelf(1)
    stranger = lent(shelf)
    stranger.owner = -1
    first = shelf.reserve(Role.WRITER)
    second = shelf.reserve(Role.WRITER)
    assert isinstance(first, Waiter)
    assert isinstance(second, Waiter)
    assert list(shelf.waiters) == [second]
    shelf.leave(first)  # late, and of no effect
    assert list(shelf.waiters) == [second]


@pytest.mark.parametrize("leave", [lambda shelf, slot: None, lambda shelf, slot: shelf.retire(slot)])
def test_what_was_left_half_open_or_half_closed_is_reclaimed(leave: Callable[[Shelf, Slot], object]) -> None:
    shelf = Shelf(2)
    mine, strangers = new(shelf), new(shelf)
    strangers.owner = -1
    leave(shelf, mine)
    leave(shelf, strangers)
    assert shelf.reclaim() == [mine]  # another thread is still at work on its own
    assert mine.state is State.GONE
    shelf.free(mine)
    shelf.free(mine)  # as an exception between the two may make it happen
    assert shelf.slots == [strangers]


def test_what_another_thread_is_just_taking_away_is_left_to_it() -> None:
    """Two threads that end an invocation at once: each connection is closed, and told of, by one of them."""
    shelf = Shelf(1)
    slot = lent(shelf)
    with ThreadPoolExecutor(1) as other:
        assert other.submit(shelf.reclaim).result(10) == [slot]
        assert shelf.reclaim() == []
        assert other.submit(shelf.reclaim).result(10) == [slot]  # an exception struck it half-way


def test_one_that_arrives_on_the_shelf_when_it_is_gone_is_taken_off() -> None:
    shelf = Shelf(1)
    slot = lent(shelf)
    assert shelf.reclaim() == [slot]
    shelf._shelve(slot)
    assert not shelf.idle
    assert not shelf.put(slot)


def test_a_reader_is_left_on_the_shelf_by_who_wants_a_writer_until_there_is_no_room() -> None:
    shelf = Shelf(2)
    reader = shelf.reserve(Role.READER)
    assert isinstance(reader, Slot)
    reader.shift(State.CONNECTING, State.LENT)
    shelf.put(reader)
    assert shelf.take(Role.WRITER) is None
    assert new(shelf) is not reader
    assert shelf.reserve(Role.WRITER) is reader


def test_one_that_is_reclaimed_while_it_is_taken_is_not_lent() -> None:
    """Between the taking off the shelf and the lending, another thread may end its invocation."""

    class Slow(deque[Slot]):
        def pop(self) -> Slot:  # type: ignore[override]
            slot = super().pop()
            assert shelf.reclaim() == [slot]
            return slot

    shelf = Shelf(1)
    slot = lent(shelf)
    shelf.put(slot)
    shelf.idle = Slow(shelf.idle)
    assert shelf.take(Role.WRITER) is None
    assert slot.state is State.GONE


def test_one_that_was_taken_meanwhile_is_passed_by() -> None:
    """Between the look at the shelf and the taking, a borrower on the warm path may be faster."""
    shelf = Shelf(1)
    slot = lent(shelf)
    slot.owner = -1
    shelf.put(slot)
    shelf.idle.remove(slot)
    assert not shelf._take_out(slot, 1)
    assert shelf.retire_idle(generation=5) is None
