"""Hostile and broken servers: one of our errors or the driver's, in time, and the pool goes on serving."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lambda_pool
from lambda_pool.core.entry import Entry
from lambda_pool.events import Pinged
from tests.faults.fuzz.conftest import Target
from tests.faults.fuzz.effort import TIMES, effort
from tests.faults.fuzz.hostile import Script
from tests.faults.fuzz.mutations import mutated
from tests.faults.fuzz.nasties import OPENINGS, PG_READY, REPLIES, TLS_ANSWERS, my, my_error, pg, pg_error
from tests.faults.fuzz.verdict import SLACK, attempt, check_served, no_secret_logged
from tests.support.core import acquire, entries, release
from tests.support.invoked import invoked
from tests.support.recorder import Recorder
from tests.support.speed import FULL

CONNECT = 0.15
PING = 0.08
LEFT = 0.3
"""Seconds that an invocation has left, when it matters."""

ENDS = ("close", "wait")


@contextmanager
def invocation(seconds: float) -> Iterator[None]:
    """An invocation that has this many seconds left."""
    end = time.monotonic() + seconds
    with invoked(lambda: int((end - time.monotonic()) * 1000), reserve=0.0):
        yield


PG_EMPTY = pg("I") + PG_READY


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which case it was."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"case: {name}")
        raise


T = TypeVar("T")


def some(cases: dict[str, T], then: str) -> list[tuple[str, T]]:
    """All cases with `make fuzz`; in the test suite some, and fewer of those that wait until it is too late."""
    return list(cases.items())[:: 1 if TIMES > 1 else 8 if then == "wait" else 2 if FULL else 4]


def refused(target: Target, said: bytes) -> bool:
    """True if these bytes can be taken for a server's "no"."""
    return said[4:5] == b"\xff" if target.mysql else b"C" in said and said.startswith(b"E")


def accepted(target: Target, said: bytes) -> bool:
    """True if these bytes can be taken for a server's "done": what may be told to the user as success."""
    if target.mysql:
        return len(said) >= 11 and said[3] == 1 and said[4] == 0
    return b"C\0" in said and said.find(b"Z\0\0\0\5I") > said.find(b"C\0")


# --- login ------------------------------------------------------------------------------------------------------------


def check_login(target: Target, script: Script) -> None:
    """The first attempt meets the script; the next ones, if there are any, meet the real server."""
    pool = target.pool(connect_timeout=CONNECT, timeout=2.0, ping_after=0.0, ping_timeout=PING)
    try:
        target.front.play(script)
        _, failure = attempt(target, lambda: pool.warm(strict=True), CONNECT + 2.0)
        assert failure is None or isinstance(failure, lambda_pool.LambdaPoolError)
        check_served(target, pool)
    finally:
        pool.close()


@pytest.mark.sampled(1 / 2, "a second a case")
@pytest.mark.parametrize("then", ENDS)
def test_hand_written_logins(target: Target, then: Any, caplog: pytest.LogCaptureFixture) -> None:
    with no_secret_logged(target, caplog):
        for name, answers in some(OPENINGS[target.engine], then):
            with _named(name):
                check_login(target, target.script(*answers, then=then))


@pytest.mark.sampled(1 / 2, "5 s a case")
def test_mutated_logins(target: Target) -> None:
    @effort(60)
    @given(mutated(target.dialogue.login), st.sampled_from(ENDS))
    def check(answers: tuple[bytes, ...], then: Any) -> None:
        check_login(target, target.script(*answers, then=then))

    check()


@pytest.mark.parametrize("script", [Script((), then="wait"), Script((), speaks_first=True)], ids=["silent", "gone"])
def test_a_server_that_never_says_anything(target: Target, script: Script) -> None:
    pool = target.pool(connect_timeout=CONNECT, timeout=CONNECT * 2)
    target.front.play(*[script] * 20)
    _, failure = attempt(target, lambda: pool.connection().__enter__(), CONNECT * 2)
    assert isinstance(failure, lambda_pool.ConnectError)
    assert pool.stats().size == 0
    check_served(target, pool)
    pool.close()


def test_a_dripping_login_is_given_up_in_time(target: Target) -> None:
    pool = target.pool(connect_timeout=0.3, timeout=0.4)
    whole = target.dialogue.login[0]
    target.front.play(*[target.script(whole, drip=0.05)] * 20)
    _, failure = attempt(target, lambda: pool.connection().__enter__(), 0.4)
    assert isinstance(failure, lambda_pool.ConnectError)
    check_served(target, pool)
    pool.close()


@pytest.mark.sampled(2, "a second a case")
@pytest.mark.parametrize("then", ENDS)
@pytest.mark.parametrize("sslmode", ["require", "verify-full"])
def test_no_password_without_the_tls_that_was_asked_for(target: Target, sslmode: str, then: Any) -> None:
    """Whatever the server answers, in clear text or as a hash that could be guessed offline."""
    options: dict[str, Any] = {"connect_timeout": CONNECT, "timeout": CONNECT}
    root = {"sslrootcert": str(target.server.ca_path)} if sslmode == "verify-full" else {}
    url = target.server.url(host="localhost", port=target.front.port, tls=False, sslmode=sslmode, **root)
    with pytest.raises(lambda_pool.ConfigError):  # nothing in connect_args switches it off
        lambda_pool.Pool(url, connect_args={"ssl_disabled": True} if target.mysql else {"sslmode": "disable"})
    for name, answers in (*TLS_ANSWERS[target.engine].items(), *some(OPENINGS[target.engine], "wait")):
        pool = lambda_pool.Pool(url, observers=(), **options)
        target.front.play(*[target.script(*answers, then=then)] * 20)
        with _named(name):
            _, failure = attempt(target, lambda pool=pool: pool.connection().__enter__(), CONNECT)  # type: ignore[misc]
            assert isinstance(failure, lambda_pool.LambdaPoolError)
            for said in target.front.received:
                assert target.secret.encode() not in said
                assert _user(target) not in said
            assert pool.stats().size == 0
        pool.close()


def _user(target: Target) -> bytes:
    return bytes(target.server.user.encode()) + b"\0"


# --- ping -------------------------------------------------------------------------------------------------------------


def check_ping(target: Target, answer: bytes, then: Any) -> None:
    """A connection is lent again only if this is an answer to a ping; else the borrower gets another."""
    seen = Recorder()
    pool = target.pool(connect_timeout=5.0, timeout=5.0, ping_after=0.0, ping_timeout=PING, observers=[seen])
    try:
        target.front.play(target.script(*target.dialogue.login, answer, then=then))
        pool.warm(strict=True)
        link = entries(pool)[0].link
        slot, _ = attempt(target, lambda: acquire(pool), 5.0)
        # The login that may follow is the good server's, and as slow as the machine.
        for pinged in seen.of(Pinged):
            assert pinged.seconds < PING + SLACK
        assert isinstance(slot, Entry)
        if slot.link is link:
            assert accepted(target, answer) if target.mysql else PG_EMPTY in answer
        release(pool, slot)
        check_served(target, pool)
    finally:
        pool.close()


@pytest.mark.sampled(1, "2 s a case")
@pytest.mark.parametrize("then", ENDS)
def test_hand_written_answers_to_a_ping(target: Target, then: Any, caplog: pytest.LogCaptureFixture) -> None:
    with no_secret_logged(target, caplog):
        for name, answer in some(REPLIES[target.engine], then):
            with _named(name):
                check_ping(target, answer, then)


@pytest.mark.sampled(1, "3 s a case")
def test_mutated_answers_to_a_ping(target: Target) -> None:
    @effort(60)
    @given(mutated(target.dialogue.ping), st.sampled_from(ENDS))
    def check(answers: tuple[bytes, ...], then: Any) -> None:
        check_ping(target, answers[0], then)

    check()


def test_a_dripping_answer_to_a_ping_is_given_up_in_time(target: Target) -> None:
    pool = target.pool(ping_after=0.0, ping_timeout=0.12)
    target.front.play(target.script(*target.dialogue.login, target.dialogue.ping[0], drip=0.05))
    pool.warm(strict=True)
    assert attempt(target, lambda: pool.connection().__enter__(), 0.6)[1] is None
    assert (pool.stats().replaced, pool.stats().opened) == (1, 2)
    pool.close()


# --- return -----------------------------------------------------------------------------------------------------------


def test_hand_written_answers_to_begin(my_target: Target) -> None:
    """What `run` sends itself on MySQL: nobody has seen the connection yet, so another one takes its place."""
    for name, answer in some(REPLIES["mysql"], "close"):
        with _named(name):
            pool = my_target.pool(connect_timeout=5.0, ping_timeout=PING)
            my_target.front.play(my_target.script(*my_target.dialogue.login, answer))
            attempt(my_target, lambda pool=pool: pool.run(my_target.insert), 1.0)  # type: ignore[misc]
            check_served(my_target, pool)
            pool.close()


def check_commit(target: Target, answer: bytes, then: Any) -> None:
    """Success is reported only after a "done". A replay follows only a "no". Everything else is uncertain."""
    calls = 0

    def work(conn: Any) -> None:
        nonlocal calls
        calls += 1
        target.insert(conn)

    pool = target.pool(connect_timeout=5.0)
    try:
        target.front.play(
            target.script(*target.dialogue.login, *target.begin, *target.dialogue.statement, answer, then=then)
        )
        pool.warm(strict=True)  # before: a login takes long on a busy machine, and is not what is tried here
        with invocation(LEFT):
            _, failure = attempt(target, lambda: pool.run(work), LEFT)
        assert b"COMMIT" in target.front.received[0]
        if isinstance(failure, lambda_pool.CommitUncertain):
            assert calls == 1
            assert pool.stats().size == 0
        elif failure is not None:
            assert refused(target, answer)
        elif calls == 1:
            assert accepted(target, answer)
        else:
            assert refused(target, answer)
        check_served(target, pool)
    finally:
        pool.close()


@pytest.mark.sampled(1 / 2, "a second a case")
@pytest.mark.parametrize("then", ENDS)
def test_hand_written_answers_to_commit(target: Target, then: Any, caplog: pytest.LogCaptureFixture) -> None:
    with no_secret_logged(target, caplog):
        for name, answer in some(REPLIES[target.engine], then):
            with _named(name):
                check_commit(target, answer, then)


@pytest.mark.sampled(1 / 2, "4 s a case")
def test_mutated_answers_to_commit(target: Target) -> None:
    @effort(60)
    @given(mutated(target.dialogue.commit), st.sampled_from(ENDS))
    def check(answers: tuple[bytes, ...], then: Any) -> None:
        check_commit(target, answers[0], then)

    check()


_UNKNOWN = {
    "postgresql": [pg_error(b"no", state) + PG_READY for state in (b"08006", b"08007", b"40003", b"", b"x")],
    "mysql": [my(1, my_error(number, b"no")) for number in (0, 2006, 2013, 2014, 2055, 65535)],
}


def test_an_error_that_is_no_clear_no_leaves_commit_uncertain(target: Target) -> None:
    """As a pooler reports that it lost the server behind it, on a connection that lives."""
    for answer in _UNKNOWN[target.engine]:
        with _named(repr(answer)):
            script = target.script(
                *target.dialogue.login, *target.begin, *target.dialogue.statement, answer, then="wait"
            )
            target.front.play(script)
            pool = target.pool()
            with pytest.raises(lambda_pool.CommitUncertain), invocation(LEFT):
                pool.run(target.insert)
            assert len(target.front.received) == 1
            assert pool.stats().size == 0
            pool.close()


@pytest.mark.parametrize("number", [1053, 1927, 4031])
def test_a_server_that_says_it_closes_is_lost_before_it_does(my_target: Target, number: int) -> None:
    ending = my(1, my_error(number, b"the server closes"))
    my_target.front.play(my_target.script(*my_target.dialogue.login, *my_target.begin, ending, then="wait"))
    pool = my_target.pool()
    with invocation(5.0):
        pool.run(my_target.insert)
    assert b"COMMIT" not in my_target.front.received[0]
    check_served(my_target, pool)
    pool.close()


@pytest.mark.sampled(1, "3 s a case")
def test_an_answer_too_many_is_not_taken_for_the_next_borrowers(target: Target) -> None:
    """In one piece with the answer to COMMIT: libpq has it in its buffer, and no look at the socket finds it."""
    pool = target.pool()
    dialogue = target.dialogue
    (commit,) = dialogue.commit
    extra = commit if not target.mysql else commit[:3] + b"\2" + commit[4:]
    target.front.play(
        target.script(*dialogue.login, *dialogue.statement, commit + extra, *dialogue.statement, then="wait")
    )
    with invocation(5.0):
        with pool.connection() as conn:
            target.insert(conn)
        slot = acquire(pool)
        cursor = slot.link.driver_connection.cursor()
        cursor.execute("insert into fuzz values (1)")
        assert cursor.rowcount == 1
        if not target.mysql:
            assert cursor.statusmessage == "INSERT 0 1"
        release(pool, slot, ValueError())
    pool.close()


def test_a_result_given_up_halfway_is_not_read_on(my_target: Target) -> None:
    """Text that is not UTF-8, in a row before the last: what follows is not the answer to the next statement."""
    pool = my_target.pool()
    with pytest.raises(UnicodeDecodeError), pool.connection() as conn:
        cursor = conn.cursor()
        cursor.execute("set names utf8mb4")
        cursor.execute("select cast('a' as char) union all select convert(x'ff' using latin1)")
        conn.encoding = "ascii"
        cursor.execute("select convert(x'ff' using latin1) union all select 'b' union all select 'c'")
    assert pool.stats().size == 0
    check_served(my_target, pool)
    pool.close()


def check_rollback(target: Target, answer: bytes, then: Any) -> None:
    """The borrower sees its own error. A connection comes back only after a "done"."""
    pool = target.pool(connect_timeout=5.0)
    try:
        target.front.play(target.script(*target.dialogue.login, *target.dialogue.statement, answer, then=then))
        with invocation(LEFT), pytest.raises(ZeroDivisionError), pool.connection() as conn:
            target.insert(conn)
            1 / 0  # noqa: B018
        assert b"ROLLBACK" in target.front.received[0]
        assert not pool.stats().size or accepted(target, answer)
        check_served(target, pool)
    finally:
        pool.close()


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("then", ENDS)
def test_hand_written_answers_to_rollback(target: Target, then: Any, caplog: pytest.LogCaptureFixture) -> None:
    with no_secret_logged(target, caplog):
        for name, answer in some(REPLIES[target.engine], then):
            with _named(name):
                check_rollback(target, answer, then)


@pytest.mark.sampled(1, "2 s a case")
def test_mutated_answers_to_rollback(target: Target) -> None:
    @effort(40)
    @given(mutated(target.dialogue.rollback), st.sampled_from(ENDS))
    def check(answers: tuple[bytes, ...], then: Any) -> None:
        check_rollback(target, answers[0], then)

    check()


def check_reset(target: Target, answers: tuple[bytes, ...], then: Any) -> None:
    """A connection comes back only after a "done". If the work is already saved, the borrower hears nothing."""
    pool = target.pool(connect_timeout=5.0, reset="session", ping_timeout=PING)
    dialogue = target.dialogue
    try:
        # Both are asked for everything in one write; of PostgreSQL's answers the first holds that to COMMIT.
        said = (b"".join([*dialogue.commit, *answers]),) if target.mysql else answers
        target.front.play(target.script(*dialogue.login, *dialogue.statement, *said, then=then))

        def borrow() -> None:
            with invocation(LEFT), pool.connection() as conn:
                target.insert(conn)

        _, failure = attempt(target, borrow, LEFT)
        if failure is not None:
            assert not target.mysql
            assert isinstance(failure, lambda_pool.CommitUncertain) or refused(target, answers[0])
        elif not target.mysql:
            assert b"C" in answers[0]
        # A question's answer is not a "done": its row decides, and the packets around it say nothing of their own.
        done = [answer for answer, right in zip(answers, dialogue.reset, strict=False) if accepted(target, right)]
        assert not pool.stats().size or all(accepted(target, answer) for answer in done)
        check_served(target, pool)
    finally:
        pool.close()


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("then", ENDS)
def test_hand_written_answers_to_a_reset(target: Target, then: Any, caplog: pytest.LogCaptureFixture) -> None:
    with no_secret_logged(target, caplog):
        for name, answer in some(REPLIES[target.engine], then):
            with _named(name):
                check_reset(target, (answer, *target.dialogue.reset[1:]), then)


@pytest.mark.sampled(1, "3 s a case")
def test_mutated_answers_to_a_reset(target: Target) -> None:
    @effort(40)
    @given(mutated(target.dialogue.reset), st.sampled_from(ENDS))
    def check(answers: tuple[bytes, ...], then: Any) -> None:
        check_reset(target, answers, then)

    check()


def test_a_reset_after_which_autocommit_seems_to_be_off(target: Target) -> None:
    if target.mysql:
        off = target.dialogue.commit[0]
        check_reset(target, (off, b"\0" + off), "close")
