"""The pool itself: lock, queue, checkout, return, run. Synchronous, thread-safe, and without a thread of its own."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from threading import get_ident
from time import monotonic, sleep, time
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from . import borrower, invocation
from .auth.base import Auth
from .backoff import backoff, uniform
from .config import Config, seconds
from .connector import Connector
from .endpoints.base import EndpointSource, Role
from .engines.base import FAILED_OVER, HEALS, LEAST, Condition, Engine, Failure, Link, Outcome
from .errors import CommitUncertain, ConfigError, DeadlineExceeded, LambdaPoolError, PoolTimeout
from .events import (
    CheckedOut,
    Closed,
    Forked,
    Leaked,
    Observer,
    Pinged,
    Reason,
    Replaced,
    Reused,
    RolledBack,
    TimedOut,
    Waited,
)
from .invocation import Limit
from .policy import PING, REUSE, Replace, decide, replace
from .shelf import Shelf
from .slot import UNOPENED, Slot, State
from .tally import Tally

if TYPE_CHECKING:
    from .stats import PoolStats

T = TypeVar("T")

log = logging.getLogger("lambda_pool")

_IDLE, _LENT, _CONNECTING = State.IDLE, State.LENT, State.CONNECTING
_CLEAN, _UNCOMMITTED = Condition.CLEAN, Condition.UNCOMMITTED
_WRITER, _READER = Role.WRITER, Role.READER

_UNDONE = frozenset({Failure.CONFLICT, Failure.LOST, Failure.SHUTDOWN})
_TWICE = "this connection() was entered twice: call pool.connection() for each block"
_JITTER = 0.1  # of max_lifetime, either way
_HOLDERS = 3  # places that an error names: more would hide the rest of it
# Seconds for a good-bye; Lambda's shutdown leaves 300 ms for everything.
_GOODBYE = 0.1


def _lasts(pause: float) -> bool:
    """True if the invocation lasts longer than a pause of so many seconds."""
    left = invocation.remaining()
    return left is None or left > pause


class Lease:
    """One borrowed connection, as a context manager: commit on success, roll back on error."""

    __slots__ = ("_pool", "_slot")

    def __init__(self, pool: "ConnectionPool") -> None:
        self._pool = pool
        self._slot: Slot | None = None

    def __enter__(self) -> Any:
        if self._slot is not None:
            raise LambdaPoolError(_TWICE)
        slot = self._slot = self._pool.checkout(_WRITER, None)
        frame = sys._getframe(1)
        slot.where = frame.f_code
        slot.instruction = frame.f_lasti
        return slot.link.conn

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._pool.checkin(slot, exc)


class SpecialLease(Lease):
    """A lease with a timeout of its own, of a read-only transaction, or of a pool that wants to know its borrowers."""

    __slots__ = ("_readonly", "_timeout")

    def __init__(self, pool: "ConnectionPool", timeout: float | None = None, *, readonly: bool = False) -> None:
        super().__init__(pool)
        self._timeout = timeout
        self._readonly = readonly

    def __enter__(self) -> Any:
        if self._slot is not None:
            raise LambdaPoolError(_TWICE)
        if self._readonly:
            slot = self._pool.checkout_transaction(self._timeout, readonly=True, guarded=False)
        else:
            slot = self._pool.checkout(_WRITER, self._timeout)
        self._slot = slot
        self._pool.note_borrower(slot, sys._getframe(1))
        return slot.link.conn


class ConnectionPool(Shelf):
    """Connections to one logical database. `lambda_pool.Pool` adds the decorator and picks the adapters."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        auth: Auth,
        endpoint: EndpointSource,
        observers: Sequence[Observer] = (),
    ) -> None:
        super().__init__(config.max_size)
        self.config = config
        self._engine = engine
        self._auth = auth
        self._endpoint = endpoint
        self._tally = Tally(config.name, observers)
        self.tell = self._tally.pass_on
        # Not methods of its own: each warm invocation would pay for the calls.
        self._tell_of_return = self._tally.returned
        self.tell_ended = self._tally.ended
        self.observed = bool(observers)
        self.report_due = True
        """Whether observers want to know that the invocation ends; also where nothing came back to tell."""
        self._connector = Connector(config, engine, auth, endpoint, self._tally)
        self._reader_role = _READER if endpoint.has_reader else _WRITER
        self._lease: type[Lease] = SpecialLease if config.leak_after else Lease
        self.note_borrower = borrower.note_stack if config.leak_after else borrower.note
        self._reset_session = config.reset == "session"
        self._leak_after = config.leak_after
        # Not read from the config: CPython's shortcuts to an object's attributes fail there.
        self._name = config.name
        self._ping_after = config.ping_after
        self._max_idle = float("inf") if config.max_idle is None else config.max_idle
        self._generation = 0
        self.warmed = False
        self._pid = os.getpid()

    # --- what users call ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The pool's name: in logs, events and metrics."""
        return self._name

    def connection(self, *, readonly: bool = False, timeout: float | None = None) -> Lease:
        """Borrow a connection for a `with` block: commit when it ends well, roll back when it raises.

        `readonly`: a read-only transaction, on a reader where there is one. `timeout`: seconds to wait at most,
        instead of the option `timeout`. The block yields the driver's connection.
        Entering raises PoolTimeout, DeadlineExceeded, ConnectError, CredentialsError, EndpointError or ConfigError;
        leaving raises the driver's error if COMMIT is refused, or CommitUncertain if its answer is lost.
        """
        if not readonly and timeout is None:
            return self._lease(self)
        if timeout is not None:
            timeout = seconds("timeout", timeout)
        return SpecialLease(self, timeout, readonly=readonly)

    def run(self, work: Callable[[Any], T], *, attempts: int = 3, readonly: bool = False) -> T:
        """Run `work(conn)` in one transaction and return what it returns.

        `work` is called again, up to `attempts` calls in all, when the connection is lost before COMMIT was sent, or
        the server reports a serialization failure, a deadlock or (for a writer) that it became a reader. Its effects
        outside of the database may so happen more than once. Raises CommitUncertain if COMMIT was sent and its answer
        lost, else what `work` or the checkout raises.
        """
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ConfigError(f"attempts={attempts!r} is not valid: it must be a whole number of at least 1")
        attempt = 1
        while True:
            slot = self.checkout_transaction(None, readonly=readonly, guarded=True)
            self.note_borrower(slot, sys._getframe(1))
            try:
                result = work(slot.link.conn)
            except BaseException as error:
                pause = backoff(attempt)
                again = attempt < attempts and self._may_replay(slot, error) and _lasts(pause)
                self.checkin(slot, error)
                if not again:
                    raise
            else:
                again = attempt < attempts and slot.link.replayable()
                try:
                    self.checkin(slot, None, strict=True)
                except Exception as error:
                    # Surely not committed: the server said so, or the connection was lost before COMMIT was sent. A
                    # lost answer is CommitUncertain, and none of these.
                    pause = backoff(attempt)
                    if not again or self._engine.classify(error) not in _UNDONE or not _lasts(pause):
                        raise
                else:
                    return result
            sleep(pause)
            attempt += 1

    def _may_replay(self, slot: Slot, error: BaseException) -> bool:
        """True if the work's transaction is surely undone, and another try could fare better."""
        if not isinstance(error, Exception) or not slot.link.replayable():
            return False
        kind = self._classify(slot, error)
        if kind in {Failure.LOST, Failure.SHUTDOWN}:
            # The work may have failed on a connection of its own: only the loss of ours undid its transaction.
            return not slot.link.quiet()
        return kind in {Failure.CONFLICT, Failure.READ_ONLY}

    def _classify(self, slot: Slot, error: BaseException | None) -> Failure:
        """What went wrong in a borrower's block, even if an error of its own, or none, came out of it.

        A write refused by its own read-only transaction is no failover.
        """
        kind = Failure.OTHER if error is None else self._engine.classify(error)
        if kind is Failure.OTHER and slot.link.refused_write():
            kind = Failure.READ_ONLY
        return Failure.OTHER if kind is Failure.READ_ONLY and slot.link.read_only() else kind

    def stats(self) -> "PoolStats":
        """The pool's figures now."""
        from .stats import PoolStats  # a dataclass: 1 ms of import that a cold start does without

        with self.lock:
            size, idle = len(self.slots), len(self.idle)
            return PoolStats(
                size=size,
                idle=idle,
                in_use=size - idle,
                waiting=len(self.waiters),
                reused=self.reused + sum(slot.reuses for slot in self.slots),
                **self._tally.counts(),
            )

    def warm(self, *, strict: bool = False) -> None:
        """Open `min_size` connections (at least one) now. A failure is logged and left to the first checkout, unless
        `strict`, which raises it.
        """
        self.warmed = True
        self.warm_until(Limit(self.config.timeout), strict=strict)

    def warm_until(self, limit: Limit, *, strict: bool = False) -> None:
        """What `warm` does, for as long as the caller allows."""
        slots: list[Slot] = []
        try:
            wanted = max(1, self.config.min_size)
            while isinstance(slot := self.reserve(_WRITER, wait=False, limit=wanted), Slot):
                slots.append(slot)
                self._open(slot, limit)
        except Exception as error:
            if strict:
                raise
            log.warning("pool %s: could not be warmed, the first checkout tries again: %s", self.name, error)
        finally:
            for slot in slots:
                if slot.state is _LENT:
                    self._give_back(slot)
                else:
                    self._discard(slot, Reason.DEAD)

    def close(self) -> None:
        """Close every connection: idle ones now, lent ones when they come back. A later checkout opens anew."""
        with self.lock:
            self._generation += 1
        self._close_idle(Reason.POOL_CLOSED)

    def _close_idle(self, reason: Reason) -> None:
        """Close every idle connection that is not of this generation."""
        while (slot := self.retire_idle(self._generation)) is not None:
            try:
                self._close_link(slot, reason)
            finally:
                self.free(slot)

    def __repr__(self) -> str:
        url = self.config.url
        return f"<{type(self).__name__} {self.name!r} {url.engine}://{url.host}/{url.database} {self.stats()}>"

    # --- checkout -----------------------------------------------------------------------------------------------------

    def checkout(self, role: Role, timeout: float | None) -> Slot:
        """Lend a live connection. The first half is the warm path: no round trip, one lock, one poll(0)."""
        wall = time()
        mono = monotonic()
        slot = self.take(role)
        if slot is None:
            return self._checkout_slowly(role, timeout)
        decision = decide(
            slot,
            wall,
            mono,
            self._generation,
            self._pid,
            role,
            slot.link.quiet() and slot.link.at_rest(),
            self._ping_after,
            self._max_idle,
        )
        if decision is not REUSE:
            return self._check(slot, role, Limit(timeout or self.config.timeout))
        slot.reuses += 1
        slot.borrowed_mono = mono
        if self.observed:
            slot.checkout = monotonic() - mono
            slot.fresh = False
            if self._tally.checkouts_wanted:
                self.tell(Reused(self.config.name, slot.checkout))
        return slot

    def _checkout_slowly(self, role: Role, timeout: float | None) -> Slot:
        limit = Limit(timeout or self.config.timeout)
        return self._check(self._wait(role, limit), role, limit)

    def _check(self, slot: Slot, role: Role, limit: Limit) -> Slot:
        """Make a reserved slot fit to lend: reuse, ping or replace what it holds, or open what it lacks."""
        try:
            if slot.state is not _CONNECTING:
                decision: object = decide(
                    slot,
                    time(),
                    monotonic(),
                    self._generation,
                    self._pid,
                    role,
                    slot.link.quiet() and slot.link.at_rest(),
                    self._ping_after,
                    self._max_idle,
                )
                if decision is PING:
                    decision = self._ping(slot, limit) if slot.link.at_rest() else self._used_after_return(slot)
                if decision is REUSE:
                    slot.reuses += 1
                    self._lend(slot, limit, fresh=False)
                    return slot
                assert isinstance(decision, Replace)
                if not slot.shift(_LENT, _CONNECTING):
                    # Reclaimed at the end of an invocation, while it was being checked.
                    self._discard(slot, decision.reason)
                    return self._check(self._wait(role, limit), role, limit)
                self._replace(slot, role, decision.reason)
            self._open(slot, limit)
        except BaseException:
            self._discard(slot, Reason.DEAD)
            raise
        self._lend(slot, limit, fresh=True)
        return slot

    def _lend(self, slot: Slot, limit: Limit, *, fresh: bool) -> None:
        slot.borrowed_mono = monotonic()
        slot.checkout = slot.borrowed_mono - limit.start
        slot.fresh = fresh
        if self._tally.checkouts_wanted:
            self.tell((CheckedOut if fresh else Reused)(self.name, slot.checkout))

    def checkout_transaction(self, timeout: float | None, *, readonly: bool, guarded: bool) -> Slot:
        """Lend a live connection with an explicit transaction begun on it."""
        role = self._reader_role if readonly else _WRITER
        seconds = timeout or self.config.timeout
        end = monotonic() + seconds
        for last in (False, True):
            slot = self.checkout(role, seconds)
            try:
                bound = min(self.config.ping_timeout, Limit(end - monotonic()).left())
                slot.link.begin(readonly=readonly, guarded=guarded, timeout=max(bound, LEAST))
            except BaseException as error:
                lost = self._engine.classify(error) in HEALS
                self.checkin(slot, error)
                # Nobody has seen this connection yet: it may still be replaced by one that lives.
                if last or not lost:
                    raise
                seconds = max(end - monotonic(), LEAST)
            else:
                return slot
        raise AssertionError("unreachable")

    def _wait(self, role: Role, limit: Limit) -> Slot:
        """An idle slot, or room for a new one, waiting in the queue until there is either."""
        place = self.reserve(role)
        if isinstance(place, Slot):
            return place
        if place is None:
            held = "the only connection" if self.max_size == 1 else f"all {self.max_size} connections"
            text = (
                f"pool {self.name}: this thread already holds {held}, so waiting for another could never end: "
                f"use the one it has, or raise max_size ({self.max_size})"
            )
            raise self._timed_out(PoolTimeout(text), 0.0)
        slot = None
        try:
            while slot is None and (left := limit.left()) > 0 and place.lock.acquire(timeout=left):
                slot = self.collect(place)
            slot = slot or self.collect(place, last=True)
        except BaseException:
            self.leave(place)
            raise
        if slot is None:
            self._raise_timed_out(limit)
        self._tally.tell(Waited(self.name, limit.elapsed()))
        return slot

    def _raise_timed_out(self, limit: Limit) -> NoReturn:
        waited = limit.elapsed()
        failure = self._connector.last_failure
        # Another thread may return it meanwhile; who had it last is told all the same.
        lent = [slot for slot in list(self.slots) if slot.state is _LENT and slot.where]
        holders = sorted({borrower.describe(slot)[0] for slot in lent})
        text = (
            f"pool {self.name}: no connection came free within {waited:.2f} s ({self.stats()}"
            f"{'; last failure to connect: ' + failure if failure else ''}"
            f"{'; borrowed at ' + ', '.join(holders[:_HOLDERS]) if holders else ''})"
        )
        if holders:  # else all that there are were just being opened
            text += f": hold them for a shorter time, or raise max_size ({self.max_size})"
        if limit.by_invocation:
            raise self._timed_out(DeadlineExceeded(f"{text}; the invocation had no more time"), waited)
        raise self._timed_out(PoolTimeout(text), waited)

    def _timed_out(self, error: LambdaPoolError, waited: float) -> LambdaPoolError:
        self._tally.tell(TimedOut(self.name, waited))
        return error

    def _ping(self, slot: Slot, limit: Limit) -> object:
        """One bounded round trip: REUSE, or Replace if no good answer came."""
        start = monotonic()
        try:
            slot.link.ping(max(min(self.config.ping_timeout, limit.left()), 0.001))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the connection is not lent
            self._tally.tell(Pinged(self.name, monotonic() - start, False))
            log.debug("pool %s: ping failed: %s", self.name, error)
            self._note_failover(slot, self._engine.classify(error))
            return replace(Reason.DEAD)
        self._tally.tell(Pinged(self.name, monotonic() - start, True))
        return REUSE

    def _note_failover(self, slot: Slot, kind: Failure) -> bool:
        """A server that said good-bye, or turned reader, condemns every connection that is as old as this one.

        Out: whether `kind` means that.
        """
        # The first look is for the warm path: a set asks for Enum's hash, which is written in Python.
        if kind is Failure.OTHER or kind not in FAILED_OVER:
            return False
        with self.lock:
            if slot.generation == self._generation:
                self._generation += 1
        self._endpoint.failed(slot.endpoint)
        return True

    def _replace(self, slot: Slot, role: Role, reason: Reason) -> None:
        """Close what the slot holds and make it ready for a new connection."""
        wall, mono = time(), monotonic()
        age, idle = slot.age(wall, mono), slot.idle(wall, mono)
        self._tally.tell(Replaced(self.name, reason, age, idle, slot.link.backend_id))
        backend = slot.link.backend_id
        log.info(
            "pool %s: connection replaced: %s, age %.1f s, idle %.1f s, backend %d",
            self.name,
            reason.value,
            age,
            idle,
            backend,
            extra={"pool": self.name, "reason": reason.value, "age": age, "idle": idle, "backend_id": backend},
        )
        self._close_link(slot, reason)
        slot.link = UNOPENED
        slot.role = role

    def _used_after_return(self, slot: Slot) -> Replace:
        """An idle connection is in a transaction that its last borrower, or his thread, began too late."""
        log.warning(
            "pool %s: a connection was used after it had been given back (borrowed last at %s): it is closed, and what "
            "was not committed is not saved; use it inside of its block only",
            self.name,
            borrower.describe(slot)[0],
        )
        return replace(Reason.BROKEN)

    # --- connect ------------------------------------------------------------------------------------------------------

    def _open(self, slot: Slot, limit: Limit) -> None:
        """Open the slot's connection, retrying what time heals until the limit."""
        # Taken before connecting: a failover meanwhile condemns what is opened now.
        generation = self._generation
        link, endpoint = self._connector.open(slot.role, limit)
        slot.endpoint = endpoint
        slot.opened(
            link,
            generation=generation,
            pid=self._pid,
            lifetime=self.config.max_lifetime * (1 + _JITTER * (2 * uniform() - 1)),
            wall=time(),
            mono=monotonic(),
        )
        slot.shift(_CONNECTING, _LENT)
        if self.config.cancel_before_deadline:
            link.watch()

    # --- return -------------------------------------------------------------------------------------------------------

    def checkin(self, slot: Slot, error: BaseException | None, *, strict: bool = False) -> None:
        """Take a connection back. The first half is the warm path.

        `error` is what the borrower's block raised; what goes wrong here is then logged and not raised. `strict`: a
        block that ended well on a transaction that cannot be committed raises too.
        """
        if error is None and not self._reset_session and slot.pid == self._pid:
            condition = slot.link.condition()
            if condition is _CLEAN:
                self._give_back(slot)
                return
            if condition is _UNCOMMITTED:
                self._commit(slot, strict=strict)
                return
        self._settle(slot, error, None, strict=strict)

    def _commit(self, slot: Slot, *, strict: bool) -> None:
        """The rest of the warm path, where COMMIT is all there is to do."""
        problem: BaseException | None = None
        try:
            left = invocation.remaining()
            clean = slot.link.commit(LEAST if left is not None and left < LEAST else left)
        except BaseException as failure:  # noqa: BLE001 - raised by `_settle`, once the slot is safe
            problem = failure
        else:
            if clean:
                self._give_back(slot)
                return
        try:
            self._settle(slot, None, problem, strict=strict)
        finally:
            del problem  # see `_settle`

    def _give_back(self, slot: Slot) -> None:
        """Cache a clean connection, or hand it to the borrower who has waited longest."""
        wall = slot.idle_wall = time()
        mono = slot.idle_mono = monotonic()
        # Read before `put`: afterwards the slot is the next borrower's. 0: lent to nobody (`warm`), or told of already.
        since, slot.borrowed_mono = slot.borrowed_mono, 0.0
        told = self.observed and since
        if told:
            checkout, reused = slot.checkout, not slot.fresh
            in_use = 1 if self.max_size == 1 else len(self.slots) - len(self.idle)
        if self._leak_after and since and mono - since > self._leak_after:
            self._leaked(slot, mono)
        if not self.put(slot):
            # Reclaimed (and told of) when its invocation ended, and severed: this thread, its last user, closes it.
            slot.link.close(_GOODBYE)
        if told:
            tell = self._tell_of_return  # a variable first: CPython has no shortcut to a call of an attribute's value
            self.report_due = tell(self._name, mono - since, checkout, reused, in_use, wall, mono)
        # Looked at afterwards, so that a `close()` or a failover at this very moment is not missed.
        if slot.generation != self._generation:
            self._close_idle(Reason.GENERATION)

    def _settle(self, slot: Slot, error: BaseException | None, problem: BaseException | None, *, strict: bool) -> None:
        """End the borrower's transaction and bring the connection back to how it was lent, or close it.

        `problem`: what came of a COMMIT that was tried before.
        """
        link = slot.link
        if slot.pid != self._pid:
            # Borrowed before a fork: this process owns nothing of it but a descriptor.
            link.drop()
            return
        condemned = self._note_failover(slot, self._classify(slot, error))
        reason = Reason.USER_CLOSED if link.closed_by_user() else Reason.BROKEN
        keep = False
        if reason is Reason.BROKEN:
            if problem is None:
                try:
                    self._finish(slot, error, strict=strict)
                except BaseException as failure:  # noqa: BLE001 - raised below, once the slot is safe
                    problem = failure
            if problem is not None:
                self._note_failover(slot, self._engine.classify(problem.__cause__ or problem))
            keep = not condemned and not isinstance(problem, CommitUncertain) and self._restore(slot)
        elif error is None and problem is None:
            problem = self._unsaved(
                "a block closed its connection itself: what it had not committed by then is not saved, and the next "
                "checkout has to connect; leave the closing to the pool",
                strict=strict,
            )
        if keep:
            self._give_back(slot)
        else:
            self._tell_returned(slot, len(self.slots) - len(self.idle))
            self._discard(slot, reason)
        if problem is None:
            return
        try:
            if error is None or not isinstance(problem, Exception):
                raise problem
            log.debug("pool %s: cleaning up after an error failed too: %s", self.name, problem)
        finally:
            del problem  # it knows this frame, and would keep the connection until the garbage collector comes

    def _finish(self, slot: Slot, error: BaseException | None, *, strict: bool) -> None:
        commit = error is None
        left = invocation.remaining()
        timeout = LEAST if left is not None and left < LEAST else left
        if not commit:
            # A rollback that takes longer than a checkout may is given up: closing has the same effect.
            timeout = min(self.config.timeout, timeout or self.config.timeout)
        outcome = slot.link.finish(commit=commit, timeout=timeout)
        if outcome is Outcome.ROLLED_BACK:
            self._tally.tell(RolledBack(self.name, "error"))
        elif outcome is Outcome.FAILED and commit:
            self._tally.tell(RolledBack(self.name, "failed transaction"))
            unsaved = self._unsaved(
                "a block ended normally, but its transaction had failed or its connection was lost, and the error was "
                "swallowed: nothing of the transaction is saved",
                strict=strict,
            )
            if unsaved:
                raise unsaved

    def _unsaved(self, why: str, *, strict: bool) -> LambdaPoolError | None:
        """What is to be raised of a block that ended well and saved nothing; None where a warning is enough."""
        text = f"pool {self.name}: {why}"
        if strict:
            return LambdaPoolError(text)
        log.warning("%s", text)
        return None

    def _restore(self, slot: Slot) -> bool:
        limit = Limit(self.config.ping_timeout)
        try:
            if not slot.link.restore(max(limit.left(), LEAST)):
                return False
            if self._reset_session:
                slot.link.reset_session(max(limit.left(), LEAST))
        except Exception as error:  # noqa: BLE001 - a connection that cannot be brought back is closed
            log.debug("pool %s: bringing a connection back failed: %s", self.name, error)
            return False
        return True

    def _tell_returned(self, slot: Slot, in_use: int) -> None:
        """Tell of a borrow whose connection leaves the pool; only once, should it come back all the same."""
        since, slot.borrowed_mono = slot.borrowed_mono, 0.0
        if since:
            wall, mono = time(), monotonic()
            self._tell_of_return(self.name, mono - since, slot.checkout, not slot.fresh, in_use, wall, mono)
            self.report_due = True

    def _discard(self, slot: Slot, reason: Reason) -> None:
        """Take a slot out of the pool, close what it holds, and wake who waits for room."""
        if not self.retire(slot):
            # Told of when it was severed; only now is nobody inside the driver, so that its memory can go.
            slot.link.close(_GOODBYE)
            return
        try:
            # First, so that there are never more connections than `max_size`.
            self._close_link(slot, reason)
        finally:
            self.free(slot)

    def _close_link(self, slot: Slot, reason: Reason) -> None:
        if slot.link is UNOPENED:
            return
        if slot.pid != self._pid:
            slot.link.drop()
        else:
            slot.link.close(_GOODBYE)
        self._tally.tell(Closed(self.name, reason, slot.age(time(), monotonic()), slot.link.backend_id))

    # --- lifecycle ----------------------------------------------------------------------------------------------------

    def end_invocation(self, *, alone: bool = True) -> None:
        """Take back what borrowers still hold: an environment is never frozen with an open transaction.

        Not `alone`: other invocations go on in this process, so that only this thread's is known to be left behind.
        """
        held = self.reclaim(alone=alone)
        mono = monotonic()
        try:
            for slot in held:
                if slot.borrowed_mono:  # else nobody had it in his hands yet, or any more
                    self._leaked(slot, mono)
                    self._tell_returned(slot, len(held))
                self._take_away(slot)
        finally:
            for slot in held:
                self.free(slot)
        self._close_left_open()

    def left_open(self) -> Slot | None:
        """An idle connection that is in a transaction: somebody used it after it had been given back."""
        for slot in self.slots:  # no copy: each invocation asks
            link = slot.link  # another thread may borrow it meanwhile, and replace it
            if slot.state is _IDLE and link is not UNOPENED and not link.at_rest():
                return slot
        return None

    def _close_left_open(self) -> None:
        while (slot := self.left_open()) is not None and self.retire_if_idle(slot):
            try:
                self._close_link(slot, self._used_after_return(slot).reason)
            finally:
                self.free(slot)

    def _take_away(self, slot: Slot) -> None:
        if slot.owner == get_ident():
            self._close_link(slot, Reason.LEAKED)
            return
        link = slot.link
        if link is UNOPENED:  # its thread is just replacing it, and will find that the slot is gone
            return
        # Its thread may be inside the driver, where closing would pull the memory from under it; and a server at work
        # looks at its client only when it has something to say.
        if link.running():
            self.cancel(slot, link, max(Limit(self.config.ping_timeout).left(), LEAST))
        link.sever()
        self._tally.tell(Closed(self.name, Reason.LEAKED, slot.age(time(), monotonic()), link.backend_id))

    def _leaked(self, slot: Slot, mono: float) -> None:
        where, stack = borrower.describe(slot)
        held = mono - slot.borrowed_mono
        self._tally.tell(Leaked(self.name, held, where, stack))
        log.warning(
            "pool %s: a connection was held for %.1f s, borrowed at %s%s",
            self.name,
            held,
            where,
            stack,
            extra={"pool": self.name, "held": held, "where": where},
        )

    def forget(self) -> None:
        """Close every idle connection, and forget every token, secret and address (around a snapshot)."""
        self.close()
        self._auth.forget()
        self._endpoint.forget()

    def cancel_running(self, within: float) -> None:
        """In a signal handler, shortly before the invocation ends: make the server end what runs now.

        The first call asks the server, in at most `within` seconds; a statement that still runs at a later call loses
        its connection. Takes no lock that the interrupted code may hold.
        """
        for slot in list(self.slots):
            link = slot.link  # another thread may replace it meanwhile
            if slot.state is not _LENT or link is UNOPENED or not link.running():
                continue
            now = monotonic()
            asked = slot.cancel_mono >= slot.borrowed_mono
            if not asked:
                slot.cancel_mono = now
                if self.cancel(slot, link, within):
                    continue
            if not asked or now - slot.cancel_mono > within:
                link.cut()

    def cancel(self, slot: Slot, link: Link, within: float) -> bool:
        """Ask the server, in at most `within` seconds, to end what runs on a slot's link. False if it did not work."""
        # An RDS Proxy passes no cancel on, but ends the statement of a client that is gone.
        return not slot.endpoint.proxy and link.cancel(within, lambda: self._aside(slot, within))

    def _aside(self, slot: Slot, within: float) -> Link:
        """A connection beside the pool, to the same place."""
        return self._connector.open_aside(slot.role, Limit(within, uncut=True))

    def after_fork(self) -> None:
        """In a forked child: start empty, and let go of the parent's sockets without a word to the server."""
        for slot in self.idle:
            slot.link.drop()
        self.clear()
        self._pid = os.getpid()
        self._tally.start_afresh()
        # With their locks, which a thread may have held that stayed with the parent.
        try:
            self._auth.forget()
        finally:  # a user's own may fail
            self._endpoint.forget()
        self._tally.tell(Forked(self.name))
