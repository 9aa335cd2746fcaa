"""A slot's moves."""

import itertools

import pytest

from lambda_pool.endpoints.base import Role
from lambda_pool.slot import Slot, State

LEGAL = {
    (State.CONNECTING, State.LENT),
    (State.LENT, State.IDLE),
    (State.IDLE, State.LENT),
    (State.LENT, State.CONNECTING),
    (State.CONNECTING, State.GONE),
    (State.IDLE, State.GONE),
    (State.LENT, State.GONE),
}


@pytest.mark.parametrize(("start", "to"), list(itertools.product(State, State)))
def test_only_legal_moves(start: State, to: State) -> None:
    slot = Slot(Role.WRITER, 1)
    slot.state = start
    if (start, to) in LEGAL:
        slot.shift(start, to)
        assert slot.state is to
    else:
        with pytest.raises(RuntimeError, match=f"{start.value} to {to.value}"):
            slot.shift(start, to)
        assert slot.state is start


def test_ages_take_the_larger_clock() -> None:
    slot = Slot(Role.WRITER, 1)
    slot.opened(None, generation=0, pid=1, lifetime=10, wall=100.0, mono=50.0)  # type: ignore[arg-type]
    assert slot.age(103.0, 51.0) == 3.0
    assert slot.idle(101.0, 57.0) == 7.0
