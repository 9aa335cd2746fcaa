"""decide(): plain facts in, a decision out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_pool.endpoints.base import Role
from lambda_pool.events import Reason
from lambda_pool.policy import PING, REUSE, Replace, decide
from lambda_pool.slot import Slot, State

NOW = 1_000_000.0


def slot(*, opened: float = 0.0, used: float | None = None, lifetime: float = 1800.0) -> Slot:
    """A slot opened and last used so many seconds ago, by both clocks."""
    made = Slot(Role.WRITER, 1)
    made.opened(None, generation=3, pid=7, lifetime=lifetime, wall=NOW - opened, mono=NOW - opened)  # type: ignore[arg-type]
    made.idle_wall = made.idle_mono = NOW - (opened if used is None else used)
    made.shift(State.CONNECTING, State.LENT)
    return made


def ask(of: Slot, **facts: object) -> object:
    known: dict[str, object] = {
        "wall": NOW,
        "mono": NOW,
        "generation": 3,
        "pid": 7,
        "role": Role.WRITER,
        "quiet": True,
        "ping_after": 5.0,
        "max_idle": math.inf,
    }
    return decide(of, **(known | facts))  # type: ignore[arg-type]


def reason(decision: object) -> Reason:
    assert isinstance(decision, Replace)
    return decision.reason


def test_a_fresh_quiet_connection_is_reused() -> None:
    assert ask(slot(opened=10, used=1)) is REUSE


def test_a_readable_socket_is_pinged() -> None:
    assert ask(slot(opened=10, used=1), quiet=False) is PING


def test_idle_past_ping_after_is_pinged() -> None:
    assert ask(slot(opened=10, used=5.0)) is REUSE
    assert ask(slot(opened=10, used=5.1)) is PING


@pytest.mark.parametrize(
    ("facts", "wanted"),
    [
        ({"pid": 8}, Reason.FORKED),
        ({"generation": 4}, Reason.GENERATION),
        ({"role": Role.READER}, Reason.ROLE),
        ({"wall": NOW - 100}, Reason.CLOCK),
        ({"mono": NOW - 100}, Reason.CLOCK),
        ({"wall": NOW + 1800}, Reason.LIFETIME),
        ({"mono": NOW + 1800}, Reason.LIFETIME),
    ],
)
def test_replaced_with_its_reason(facts: dict[str, object], wanted: Reason) -> None:
    assert reason(ask(slot(opened=10, used=1), **facts)) is wanted


def test_max_idle_replaces_without_a_ping() -> None:
    assert ask(slot(opened=100, used=59), max_idle=60.0) is PING
    assert reason(ask(slot(opened=100, used=61), max_idle=60.0)) is Reason.IDLE


def test_the_larger_of_both_clocks_counts() -> None:
    """A clock that stopped while the environment was frozen does not make a connection young."""
    assert ask(slot(opened=10, used=1), wall=NOW + 60) is PING
    assert ask(slot(opened=10, used=1), mono=NOW + 60) is PING


@given(
    wall=st.floats(-1e7, 1e7),
    mono=st.floats(-1e7, 1e7),
    quiet=st.booleans(),
    generation=st.integers(2, 4),
    pid=st.integers(6, 8),
)
def test_reuse_is_never_chosen_against_a_fact(wall: float, mono: float, quiet: bool, generation: int, pid: int) -> None:
    decision = ask(slot(opened=10), wall=NOW + wall, mono=NOW + mono, quiet=quiet, generation=generation, pid=pid)
    if decision is REUSE:
        assert quiet
        assert (generation, pid) == (3, 7)
        assert -10 <= wall <= 5
        assert -10 <= mono <= 5
