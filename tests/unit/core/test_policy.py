"""The decisions at checkout, at return and on a replay: plain facts in, a decision out."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_pool.core.entry import Entry, State
from lambda_pool.core.policy import (
    Step,
    Verdict,
    at_checkout,
    at_return,
    may_replay,
    may_replay_refused_commit,
)
from lambda_pool.endpoints.base import Role
from lambda_pool.engines.base import Condition, Failure
from lambda_pool.events import Reason

NOW = 1_000_000.0


def entry(*, opened: float = 0.0, used: float | None = None, lifetime: float = 1800.0) -> Entry:
    """An entry opened and last used so many seconds ago, by both clocks."""
    made = Entry(Role.WRITER, 1)
    made.opened(None, generation=3, pid=7, lifetime=lifetime, wall=NOW - opened, mono=NOW - opened)  # type: ignore[arg-type]
    made.idle_wall = made.idle_mono = made.alive_wall = made.alive_mono = NOW - (opened if used is None else used)
    made.state = State.LENT
    return made


def ask(of: Entry, **facts: object) -> object:
    known: dict[str, object] = {
        "wall": NOW,
        "mono": NOW,
        "generation": 3,
        "pid": 7,
        "role": Role.WRITER,
        "silent": True,
        "ping_after": 5.0,
        "max_idle": math.inf,
    }
    return at_checkout(of, **(known | facts))  # type: ignore[arg-type]


def test_a_fresh_quiet_connection_is_reused() -> None:
    assert ask(entry(opened=10, used=1)) is Verdict.REUSE


def test_a_readable_socket_is_pinged() -> None:
    assert ask(entry(opened=10, used=1), silent=False) is Verdict.PING


def test_idle_past_ping_after_is_pinged() -> None:
    assert ask(entry(opened=10, used=5.0)) is Verdict.REUSE
    assert ask(entry(opened=10, used=5.1)) is Verdict.PING


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
    assert ask(entry(opened=10, used=1), **facts) is wanted


def test_max_idle_replaces_without_a_ping() -> None:
    assert ask(entry(opened=100, used=59), max_idle=60.0) is Verdict.PING
    assert ask(entry(opened=100, used=61), max_idle=60.0) is Reason.IDLE


def test_the_larger_of_both_clocks_counts() -> None:
    """A clock that stopped while the environment was frozen does not make a connection young."""
    assert ask(entry(opened=10, used=1), wall=NOW + 60) is Verdict.PING
    assert ask(entry(opened=10, used=1), mono=NOW + 60) is Verdict.PING
    assert ask(entry(opened=10, used=1), wall=NOW + 60, max_idle=30.0) is Reason.IDLE
    assert ask(entry(opened=10, used=1), mono=NOW + 60, max_idle=30.0) is Reason.IDLE


_NEAR = st.floats(-12, -3)
"""Around the times at which a connection used 10 s ago may be reused: far from them nothing could be chosen wrongly."""


@given(
    wall=st.one_of(_NEAR, _NEAR, _NEAR, st.floats(-1e7, 1e7)),
    mono=st.one_of(_NEAR, _NEAR, _NEAR, st.floats(-1e7, 1e7)),
    silent=st.sampled_from([True, True, False]),
    generation=st.sampled_from([3, 3, 3, 2, 4]),
    pid=st.sampled_from([7, 7, 7, 6, 8]),
)
def test_reuse_is_never_chosen_against_a_fact(
    wall: float, mono: float, silent: bool, generation: int, pid: int
) -> None:
    decision = ask(entry(opened=10), wall=NOW + wall, mono=NOW + mono, silent=silent, generation=generation, pid=pid)
    if decision is Verdict.REUSE:
        assert silent
        assert (generation, pid) == (3, 7)
        assert -10 <= wall <= -5
        assert -10 <= mono <= -5


def test_ages_take_the_larger_clock() -> None:
    aged = Entry(Role.WRITER, 1)
    aged.opened(None, generation=0, pid=1, lifetime=10, wall=100.0, mono=50.0)  # type: ignore[arg-type]
    assert aged.age(103.0, 51.0) == 3.0
    assert aged.idle(101.0, 57.0) == 7.0


class TestReturn:
    """at_return(): asked after each step, until it says KEEP or CLOSE."""

    @staticmethod
    def ask(condition: Condition = Condition.CLEAN, **facts: object) -> Step:
        known: dict[str, object] = {
            "failed": False,
            "closed": False,
            "ended": False,
            "condemned": False,
            "restored": None,
            "reset": False,
        }
        return at_return(condition, **(known | facts))  # type: ignore[arg-type]

    def test_what_comes_back_as_it_was_lent_costs_nothing(self) -> None:
        assert self.ask() is Step.KEEP

    def test_an_open_transaction_is_committed_alone(self) -> None:
        assert self.ask(Condition.UNCOMMITTED) is Step.COMMIT
        assert self.ask(Condition.UNCOMMITTED, ended=True, restored=True) is Step.KEEP

    @pytest.mark.parametrize("condition", Condition)
    def test_after_an_error_the_transaction_is_ended_and_the_session_restored(self, condition: Condition) -> None:
        assert self.ask(condition, failed=True) is Step.END
        assert self.ask(condition, failed=True, ended=True) is Step.RESTORE
        assert self.ask(condition, failed=True, ended=True, restored=True) is Step.KEEP
        assert self.ask(condition, failed=True, ended=True, restored=False) is Step.CLOSE

    @pytest.mark.parametrize("condition", Condition)
    def test_a_session_that_is_always_reset_is_never_kept_as_it_is(self, condition: Condition) -> None:
        assert self.ask(condition, reset=True) is Step.END
        assert self.ask(condition, reset=True, ended=True) is Step.RESTORE

    @given(
        condition=st.sampled_from(Condition),
        failed=st.booleans(),
        closed=st.booleans(),
        ended=st.booleans(),
        condemned=st.booleans(),
        restored=st.sampled_from([None, True, False]),
        reset=st.booleans(),
    )
    def test_whatever_the_facts(self, condition: Condition, **facts: object) -> None:
        step = self.ask(condition, **facts)
        if step is Step.COMMIT:
            assert condition is Condition.UNCOMMITTED
            assert not facts["failed"]
        if step is Step.KEEP:
            assert not facts["closed"]
            assert not (facts["ended"] and (facts["condemned"] or not facts["restored"]))
            assert facts["ended"] or (condition is Condition.CLEAN and not facts["failed"] and not facts["reset"])
        # It ends: each step takes away the reason for itself.
        if step in {Step.COMMIT, Step.END}:
            assert not facts["ended"]
        if step is Step.RESTORE:
            assert facts["restored"] is None


class TestReplay:
    @pytest.mark.parametrize("kind", Failure)
    def test_never_once_the_transaction_is_another_one(self, kind: Failure) -> None:
        assert not may_replay(kind, own_transaction=False, lost=True)
        assert not may_replay_refused_commit(kind, own_transaction=False)

    @pytest.mark.parametrize("kind", [Failure.LOST, Failure.SHUTDOWN])
    def test_a_loss_counts_where_it_was_the_works_own_connection(self, kind: Failure) -> None:
        assert may_replay(kind, own_transaction=True, lost=True)
        assert not may_replay(kind, own_transaction=True, lost=False)
        assert may_replay_refused_commit(kind, own_transaction=True)

    @pytest.mark.parametrize("kind", Failure)
    def test_only_what_the_server_undid(self, kind: Failure) -> None:
        undone = kind in {Failure.CONFLICT, Failure.READ_ONLY, Failure.STALE}
        assert may_replay(kind, own_transaction=True, lost=False) is undone
        losses = {Failure.LOST, Failure.SHUTDOWN}
        assert may_replay_refused_commit(kind, own_transaction=True) is (undone or kind in losses)
