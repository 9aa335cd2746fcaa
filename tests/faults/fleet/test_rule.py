"""Keep while there is room: when the server is asked, and what its answer decides. This uses a scripted database."""

import logging
import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lambda_pool import ConfigError, Pool, RdsProxy, crowding, pool
from lambda_pool.api import core_of
from lambda_pool.backoff import crowded_backoff
from lambda_pool.core import policy
from lambda_pool.core.entry import Entry
from lambda_pool.core.policy import Verdict
from lambda_pool.crowding import settle
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint, Role
from lambda_pool.engines.base import Failure, tightest
from lambda_pool.events import Closed, Crowded, Reason
from lambda_pool.testing import FakeDriver, FakeError
from tests.support.context import LambdaContext
from tests.support.core import Both, entries, idle
from tests.support.recorder import Recorder


class Context(LambdaContext):
    """A context with that many seconds left."""

    def __init__(self, seconds: float) -> None:
        super().__init__(int(seconds * 1000))


class Fleet:
    """One environment on a scripted database."""

    def __init__(self, url: str = "postgresql://fake@fake.example/fake", **arguments: Any) -> None:
        self.driver = FakeDriver()
        self.asked = 0
        self.seen = Recorder()
        self.pool: Pool = self.driver.pool(url, observers=[self.seen], **arguments)
        self.work = self.pool.handler(lambda event, context, conn: None)

        real = self.driver.trip

        def trip(name: str) -> None:
            self.asked += name == "sessions"
            real(name)

        self.driver.trip = trip  # type: ignore[method-assign]

    def invoke(self, seconds: float = 30.0) -> None:
        self.work({}, Context(seconds))

    def closed(self) -> list[Reason]:
        return [event.reason for event in self.seen.of(Closed)]


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0, 1))
def test_it_is_kept_up_to_that_part(count: int, limit: int, part: float) -> None:
    assert policy.keep(count, limit, part) is (count <= part * limit)


@given(st.integers(1, 500), st.floats(0, 1), st.integers(0, 400))
def test_those_at_work_find_room(limit: int, part: float, at_work: int) -> None:
    """However single sessions are opened and kept, their total is never more than those kept and those at work."""
    kept = 0
    while policy.keep(kept + 1, limit, part):
        kept += 1
    assert kept <= part * limit
    if part <= 1 - at_work / limit:
        assert kept + at_work <= limit


def test_the_tightest_limit_counts() -> None:
    assert tightest([(70, 97), (3, 4), (1, -1)]) == (3, 4)
    assert tightest([(70, 97), (3, -1), (1, 0)]) == (1, 0)


def test_it_is_asked_at_the_end_of_the_invocation_that_opened_it() -> None:
    fleet = Fleet()
    fleet.invoke()
    assert fleet.asked == 1
    assert fleet.seen.of(Crowded) == [Crowded("fake", 1, 100, True)]
    for _ in range(100):
        fleet.invoke()
    assert fleet.asked == 1
    assert len(fleet.driver.links) == 1


@pytest.mark.parametrize("clock", ["ask_wall", "ask_mono"])
def test_it_is_asked_again_after_30_seconds_by_either_clock(clock: str) -> None:
    fleet = Fleet()
    fleet.invoke()
    (entry,) = entries(fleet.pool)
    now = entry.idle_wall if clock == "ask_wall" else entry.idle_mono
    assert now < getattr(entry, clock) <= now + 30.01
    setattr(entry, clock, now)  # as if that much time had passed
    fleet.invoke()
    assert fleet.asked == 2
    fleet.invoke()
    assert fleet.asked == 2


def test_where_it_is_crowded_the_connection_is_closed_before_the_freeze(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lambda_pool")
    fleet = Fleet()
    fleet.driver.sessions = (61, 100)
    fleet.invoke()
    assert "connection closed before the freeze: the server has 61 of 100 connections" in caplog.text
    assert entries(fleet.pool) == []
    assert fleet.driver.links[0].history[-1] == "close"
    assert fleet.closed() == [Reason.CROWDED]
    assert fleet.seen.of(Crowded) == [Crowded("fake", 61, 100, False)]
    fleet.driver.sessions = (60, 100)
    fleet.invoke()
    assert len(idle(fleet.pool)) == 1


def test_it_is_decided_before_the_invocation_is_counted() -> None:
    fleet = Fleet()
    fleet.invoke()
    names = [type(event).__name__ for event in fleet.seen.events]
    assert names.index("Returned") < names.index("Crowded") < names.index("InvocationEnded")


def test_a_handler_that_failed_asks_too() -> None:
    fleet = Fleet()
    fleet.driver.sessions = (99, 100)

    @fleet.pool.handler
    def failing(event: object, context: object, conn: Any) -> None:
        raise KeyError

    with pytest.raises(KeyError):
        failing({}, Context(30))
    assert fleet.closed() == [Reason.CROWDED]


def test_0_closes_each_time_and_never_asks() -> None:
    fleet = Fleet(keep_below=0)
    fleet.invoke()
    fleet.invoke()
    assert fleet.asked == 0
    assert fleet.closed() == [Reason.CROWDED] * 2


def never(fleet: Fleet) -> bool:
    fleet.driver.sessions = (100, 100)
    fleet.invoke()
    fleet.invoke()
    return fleet.asked == 0 and len(fleet.driver.links) == 1


def test_1_never_asks() -> None:
    assert never(Fleet(keep_below=1))


def test_a_pooler_is_not_asked() -> None:
    assert never(Fleet("postgresql://fake@fake.example/fake?pooled=true"))


def test_a_proxy_is_not_asked() -> None:
    assert never(Fleet(endpoint=FixedEndpoint(Endpoint("proxy.example", proxy=True))))


def test_an_endpoint_that_turns_out_to_be_a_proxy_is_not_asked() -> None:
    assert never(Fleet("postgresql://fake@orders.proxy-abcdefghij.eu-central-1.rds.amazonaws.com/fake"))


def test_aurora_dsql_is_not_asked() -> None:
    fleet = Fleet("postgresql://fake@abcdefghijklmnopqrstuvwxyz.dsql.eu-west-1.on.aws/fake")
    assert never(fleet)
    assert fleet.driver.requests[0].session_idle == 0


def test_a_managed_instance_does_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "lambda-managed-instances")
    assert never(Fleet())


def test_where_the_question_is_refused_the_rule_is_off_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    fleet = Fleet(max_size=2)
    fleet.driver.fail("sessions", FakeError(Failure.OTHER, "permission denied for view pg_stat_database"))
    with caplog.at_level(logging.WARNING, "lambda_pool"):
        fleet.invoke()
        fleet.invoke()
        fleet.pool.close()
        fleet.invoke()
    assert fleet.asked == 1
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "permission denied for view pg_stat_database" in warnings[0]
    assert fleet.closed() == [Reason.POOL_CLOSED]


@pytest.mark.parametrize("kind", [Failure.LOST, Failure.UNREACHABLE, Failure.SHUTDOWN])
def test_a_connection_whose_answer_did_not_come_is_closed(kind: Failure) -> None:
    fleet = Fleet()
    fleet.driver.fail("sessions", FakeError(kind))
    fleet.invoke()
    assert fleet.closed() == [Reason.DEAD]
    fleet.invoke()
    assert (fleet.asked, len(idle(fleet.pool))) == (2, 1)


def test_an_error_of_somebody_elses_leaves_nothing_lent() -> None:
    fleet = Fleet()
    fleet.driver.fail("sessions", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fleet.invoke()
    assert entries(fleet.pool) == []


def test_nor_does_one_after_a_request() -> None:
    """Nobody takes back then what the question has borrowed."""
    fleet = Fleet()
    with fleet.pool.connection():
        pass
    fleet.driver.fail("sessions", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        settle(core_of(fleet.pool))
    assert entries(fleet.pool) == []


def test_with_no_time_left_the_next_invocation_asks() -> None:
    fleet = Fleet(keep_below=0.5)
    fleet.driver.sessions = (99, 100)
    fleet.invoke()
    assert fleet.asked == 1
    fleet.driver.sessions = (1, 100)

    @fleet.pool.handler
    def late(event: object, context: Any, conn: Any) -> None:
        context.milliseconds = 120

    late({}, Context(30))
    assert (fleet.asked, len(idle(fleet.pool))) == (1, 1)
    fleet.invoke()
    assert fleet.asked == 2


@pytest.mark.parametrize(("left", "wanted"), [(30.0, 0.7), (0.3, 0.2)])
def test_the_question_is_bounded(left: float, wanted: float, monkeypatch: pytest.MonkeyPatch) -> None:
    bounds: list[float] = []
    fleet = Fleet(ping_timeout=0.7)
    with fleet.pool.connection():
        pass

    def sessions(timeout: float) -> tuple[int, int]:
        bounds.append(timeout)
        return 1, 100

    monkeypatch.setattr(fleet.driver.links[0], "sessions", sessions)
    fleet.invoke(left)
    assert bounds == [pytest.approx(wanted, abs=0.15)]


def test_each_server_is_asked_once_and_closes_its_own() -> None:
    """Writer and reader are two servers; two connections to one of them ask once."""

    fleet = Fleet(max_size=3, endpoint=Both(Endpoint("writer.example"), Endpoint("reader.example")))

    @fleet.pool.handler
    def handler(event: object, context: object) -> None:
        with fleet.pool.connection(), fleet.pool.connection(), fleet.pool.connection(readonly=True):
            pass

    handler({}, Context(30))
    assert (fleet.asked, len(idle(fleet.pool))) == (2, 3)
    fleet.driver.sessions = (99, 100)
    for entry in entries(fleet.pool):
        if entry.role is Role.WRITER:
            entry.ask_wall = 0.0
    handler({}, Context(30))
    assert fleet.asked == 3
    assert [entry.role for entry in idle(fleet.pool)] == [Role.READER]


@pytest.mark.parametrize("clock", ["time", "monotonic"])
def test_a_freeze_while_it_is_asked_counts_as_idle(clock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request is answered before its pool asks. By the thaw, the peer may have gone without a packet."""
    fleet = Fleet()
    with fleet.pool.connection():
        pass
    link = fleet.driver.links[0]
    real = getattr(time, clock)

    def sessions(timeout: float) -> tuple[int, int]:
        for module in (pool, crowding):
            monkeypatch.setattr(module, clock, lambda: real() + 60.0)
        return 1, 100

    monkeypatch.setattr(link, "sessions", sessions)
    settle(core_of(fleet.pool))
    with fleet.pool.connection():
        assert "ping" in link.history


def test_the_one_that_was_used_last_is_still_lent_first() -> None:
    """Even if the other one is asked later."""
    fleet = Fleet(max_size=2)

    @fleet.pool.handler
    def handler(event: object, context: object, conn: Any) -> int:
        with fleet.pool.connection():
            pass
        return int(conn.number)

    for _ in range(3):
        assert handler({}, Context(30)) == 0
        for entry in entries(fleet.pool)[1:]:
            entry.ask_wall = 0.0


def test_it_does_not_take_what_somebody_waits_for() -> None:
    fleet = Fleet()
    core = core_of(fleet.pool)

    class Waiting:
        owner = -1
        role = Role.WRITER
        abandoned = False

        def wait(self, seconds: float) -> bool:
            raise AssertionError("nobody waits here")

        def wake(self) -> None: ...

    with fleet.pool.connection():
        pass
    core.state.queue.append(Waiting())
    from lambda_pool.crowding import settle

    settle(core)
    assert fleet.asked == 0
    core.state.queue.clear()


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, True, "most"])
def test_keep_below_is_a_part(value: object) -> None:
    with pytest.raises(ConfigError, match=r"keep_below=.* is not valid: it must be a number from 0 .* to 1"):
        Pool("postgresql://app@db.example/app", keep_below=value)  # type: ignore[call-overload]


def test_both_are_options_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Pool("postgresql://app@db.example/app")
    assert (made.config.keep_below, made.config.session_idle) == (0.6, 60.0)
    monkeypatch.setenv("LAMBDA_POOL_URL", "postgresql://app@db.example/app?keep_below=0.4")
    monkeypatch.setenv("LAMBDA_POOL_SESSION_IDLE", "20")
    made = Pool.from_env()
    assert (made.config.keep_below, made.config.session_idle) == (0.4, 20.0)


# --- waiting for room -------------------------------------------------------------------------------------------------


@given(st.floats(-1, 100))
def test_a_refused_login_waits_50_to_500_ms(left: float) -> None:
    assert 0.05 <= crowded_backoff(left) <= 0.5


def test_the_less_time_is_left_the_sooner_it_tries_again() -> None:
    assert max(crowded_backoff(0.4) for _ in range(300)) <= 0.1
    assert max(crowded_backoff(5.0) for _ in range(300)) > 0.3


# --- the server's timer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("session_idle", "longest", "wanted"), [(60, 3, 60), (60, 30, 60), (5, 30, 35.5), (60, 900, 905.5), (0, 30, 0)]
)
def test_the_timer_outlasts_every_invocation(session_idle: float, longest: float, wanted: float) -> None:
    assert policy.session_timer(session_idle, longest) == wanted


def timed(*, used: float, heard: float, timer: float = 60.0, longest: float = 30.0) -> Entry:
    """An entry that was used and heard that many seconds ago, on a server with a timer."""
    made = Entry(Role.WRITER, 1)
    made.opened(
        None,  # type: ignore[arg-type]
        generation=3,
        pid=7,
        lifetime=1800.0,
        wall=1000.0,
        mono=1000.0,
        timer=timer,
        longest=longest,
    )
    made.heard(2000.0 - heard, 2000.0 - heard)
    made.idle_wall = made.idle_mono = made.alive_wall = made.alive_mono = 2000.0 - used
    return made


def decide(entry: Entry, ping_after: float = 5.0) -> object:
    return policy.at_checkout(entry, 2000.0, 2000.0, 3, 7, Role.WRITER, True, ping_after, math.inf)


def test_it_is_replaced_a_second_before_the_server_ends_it() -> None:
    assert decide(timed(used=58.9, heard=58.9)) is Verdict.PING
    assert decide(timed(used=59.1, heard=59.1)) is Reason.IDLE


def test_a_session_that_could_end_in_the_middle_of_the_borrow_is_pinged() -> None:
    """Borrowers who send nothing, or end their transactions themselves, let the server's timer run on."""
    assert decide(timed(used=1, heard=29.4)) is Verdict.REUSE
    assert decide(timed(used=1, heard=29.6)) is Verdict.PING
    assert decide(timed(used=20, heard=20), ping_after=3600) is Verdict.REUSE
    assert decide(timed(used=40, heard=40), ping_after=3600) is Verdict.PING


@pytest.mark.parametrize("longest", [3, 60, 900])
@given(st.floats(0, 5))
def test_at_the_default_options_the_timer_costs_no_ping(longest: float, used: float) -> None:
    """However long an invocation may last; outside one this is not known."""
    timer = policy.session_timer(60.0, longest)
    assert decide(timed(used=used, heard=used, timer=timer, longest=longest)) is Verdict.REUSE


def test_a_connection_without_a_timer_is_pinged_by_its_option_alone() -> None:
    assert decide(timed(used=100, heard=200, timer=0), ping_after=3600) is Verdict.REUSE


def test_what_is_told_depends_on_the_invocation() -> None:
    fleet = Fleet(session_idle=5)
    fleet.invoke(20.0)
    assert fleet.driver.requests[-1].session_idle == pytest.approx(25.5, abs=0.5)
    fleet.pool.close()

    @fleet.pool.handler
    def late(event: object, context: Any) -> None:
        context.milliseconds -= 12_000  # that much of it has passed
        from lambda_pool.invocation import begun

        begun.at -= 12.0
        with fleet.pool.connection():
            pass

    late({}, Context(20.0))
    assert fleet.driver.requests[-1].session_idle == pytest.approx(25.5, abs=0.5)


def test_where_nobody_knows_the_time_out_it_is_lambdas_longest() -> None:
    fleet = Fleet(session_idle=5)
    with fleet.pool.connection():
        pass
    assert fleet.driver.requests[-1].session_idle == 905.5


def test_a_pooler_and_a_proxy_have_no_timer_of_ours() -> None:
    for fleet in (
        Fleet("postgresql://fake@fake.example/fake?pooled=true"),
        Fleet(endpoint=FixedEndpoint(Endpoint("proxy.example", proxy=True))),
        Fleet(session_idle=0),
    ):
        fleet.invoke()
        assert fleet.driver.requests[-1].session_idle == 0


def test_an_rds_proxy_by_name_is_none_either() -> None:
    made = Pool("postgresql://app@/app", endpoint=RdsProxy("orders"), keep_below=0.5)
    assert made.config.keep_below == 0.5
