"""The pool itself: lock, queue, checkout, return, run. Synchronous, thread-safe, and without a thread of its own."""

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock, get_ident
from time import monotonic, sleep, time
from types import CodeType, TracebackType
from typing import Any, NoReturn, TypeVar

from . import invocation
from .auth.base import Auth
from .backoff import backoff, uniform
from .config import Config
from .connector import Connector
from .endpoints.base import EndpointSource, Role
from .engines.base import FAILED_OVER, HEALS, Engine, Failure, Outcome
from .errors import CommitUncertain, ConfigError, DeadlineExceeded, LambdaPoolError, PoolTimeout
from .events import (
    Closed,
    Event,
    Leaked,
    Observer,
    Pinged,
    Reason,
    Replaced,
    Returned,
    Reused,
    RolledBack,
    TimedOut,
    Waited,
)
from .invocation import Limit
from .policy import PING, REUSE, Replace, decide, replace
from .slot import Slot, State
from .stats import PoolStats
from .tally import Tally

T = TypeVar("T")

log = logging.getLogger("lambda_pool")

_IDLE, _LENT, _CONNECTING, _GONE = State.IDLE, State.LENT, State.CONNECTING, State.GONE
_WRITER, _READER = Role.WRITER, Role.READER

_JITTER = 0.1  # of max_lifetime, either way
# Seconds for a good-bye; Lambda's shutdown leaves 300 ms for everything.
_GOODBYE = 0.1
# Seconds that even a return after the deadline gets: a COMMIT that is never sent is surely lost.
_LEAST = 0.05


class _Waiter:
    """One borrower in the queue. `lock` is held until `slot` is granted."""

    __slots__ = ("lock", "owner", "role", "slot")

    def __init__(self, owner: int, role: Role) -> None:
        self.owner = owner
        self.role = role
        self.slot: Slot | None = None
        self.lock = Lock()
        self.lock.acquire()


class Lease:
    """One borrowed connection, as a context manager: commit on success, roll back on error."""

    __slots__ = ("_pool", "_readonly", "_role", "_slot", "_timeout")

    def __init__(self, pool: "ConnectionPool", role: Role, readonly: bool, timeout: float | None) -> None:
        self._pool = pool
        self._role = role
        self._readonly = readonly
        self._timeout = timeout
        self._slot: Slot | None = None

    def __enter__(self) -> Any:
        if self._slot is not None:
            raise LambdaPoolError("this connection() was entered twice: call pool.connection() for each block")
        if self._readonly:
            slot = self._pool.checkout_transaction(self._role, self._timeout, readonly=True, guarded=False)
        else:
            slot = self._pool.checkout(self._role, self._timeout)
        self._slot = slot
        frame = sys._getframe(1)
        slot.where = (frame.f_code, frame.f_lasti)
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


class ConnectionPool:
    """Connections to one logical database. `lambda_pool.Pool` adds the decorator and picks the adapters."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        auth: Auth,
        endpoint: EndpointSource,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.config = config
        self._engine = engine
        self._auth = auth
        self._endpoint = endpoint
        self._tally = Tally(config.name, observers)
        self.observed = bool(observers)
        self._connector = Connector(config, engine, auth, endpoint, self._tally)
        self._reader_role = _READER if endpoint.has_reader else _WRITER
        self._reset_session = config.reset == "session"
        self._generation = 0
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._pid = os.getpid()
        self._lock = Lock()
        self._slots: list[Slot] = []
        self._idle: list[Slot] = []
        self._waiters: deque[_Waiter] = deque()
        self._reused = 0  # by slots that are gone; the living count their own

    # --- what users call ----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The pool's name: in logs, events and metrics."""
        return self.config.name

    def connection(self, *, readonly: bool = False, timeout: float | None = None) -> Lease:
        """Borrow a connection for a `with` block: commit when it ends well, roll back when it raises.

        `readonly`: a read-only transaction, on a reader where there is one. `timeout`: seconds to wait at most,
        instead of the option `timeout`. The block yields the driver's connection.
        Entering raises PoolTimeout, DeadlineExceeded, ConnectError, CredentialsError, EndpointError or ConfigError;
        leaving raises the driver's error if COMMIT is refused, or CommitUncertain if its answer is lost.
        """
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout={timeout!r} is not valid: it must be a number of seconds above 0")
        return Lease(self, self._reader_role if readonly else _WRITER, readonly, timeout)

    def run(self, work: Callable[[Any], T], *, attempts: int = 3, readonly: bool = False) -> T:
        """Run `work(conn)` in one transaction and return what it returns.

        `work` is called again, up to `attempts` calls in all, when the connection is lost before COMMIT was sent, or
        the server reports a serialization failure, a deadlock or (for a writer) that it became a reader. Its effects
        outside of the database may so happen more than once. Raises CommitUncertain if COMMIT was sent and its answer
        lost, else what `work` or the checkout raises.
        """
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            raise ConfigError(f"attempts={attempts!r} is not valid: it must be a whole number of at least 1")
        role = self._reader_role if readonly else _WRITER
        attempt = 1
        while True:
            slot = self.checkout_transaction(role, None, readonly=readonly, guarded=True)
            slot.where = "Pool.run"
            try:
                result = work(slot.link.conn)
            except BaseException as error:
                again = attempt < attempts and self._may_replay(slot, error, readonly=readonly)
                self.checkin(slot, error)
                if not again:
                    raise
            else:
                try:
                    self.checkin(slot, None, strict=True)
                except Exception as error:
                    # The server's own word that it did not commit; a lost answer is CommitUncertain, no conflict.
                    if attempt >= attempts or self._engine.classify(error) is not Failure.CONFLICT:
                        raise
                else:
                    return result
            sleep(backoff(attempt))
            attempt += 1

    def _may_replay(self, slot: Slot, error: BaseException, *, readonly: bool) -> bool:
        """True if the work's transaction is surely undone, and another try could fare better."""
        left = invocation.remaining()
        if not isinstance(error, Exception) or not slot.link.replayable() or (left is not None and left <= 0):
            return False
        kind = self._engine.classify(error)
        if kind in {Failure.LOST, Failure.SHUTDOWN}:
            # The work may have failed on a connection of its own: only the loss of ours undid its transaction.
            return not slot.link.quiet()
        return kind is Failure.CONFLICT or (kind is Failure.READ_ONLY and not readonly)

    def stats(self) -> PoolStats:
        """The pool's figures now."""
        with self._lock:
            size, idle = len(self._slots), len(self._idle)
            return PoolStats(
                size=size,
                idle=idle,
                in_use=size - idle,
                waiting=len(self._waiters),
                reused=self._reused + sum(slot.reuses for slot in self._slots),
                **self._tally.counts(),
            )

    def warm(self, *, strict: bool = False) -> None:
        """Open `min_size` connections (at least one) now. A failure is logged and left to the first checkout, unless
        `strict`, which raises it.
        """
        slots: list[Slot] = []
        limit = Limit(self.config.timeout)
        try:
            while (slot := self._reserve_spare(max(1, self.config.min_size))) is not None:
                slots.append(slot)
                self._open(slot, limit)
        except Exception as error:
            self._discard(slots.pop(), None)
            if strict:
                raise
            log.warning("pool %s: could not be warmed, the first checkout tries again: %s", self.name, error)
        except BaseException:
            self._discard(slots.pop(), None)
            raise
        finally:
            for slot in slots:
                self._give_back(slot)

    def close(self) -> None:
        """Close every connection: idle ones now, lent ones when they come back. A later checkout opens anew."""
        with self._lock:
            self._generation += 1
            idle, self._idle = self._idle, []
        for slot in idle:
            slot.move(_LENT)
            self._discard(slot, Reason.POOL_CLOSED)

    def __repr__(self) -> str:
        url = self.config.url
        return f"<{type(self).__name__} {self.name!r} {url.engine}://{url.host}/{url.database} {self.stats()}>"

    # --- checkout -----------------------------------------------------------------------------------------------------

    def checkout(self, role: Role, timeout: float | None) -> Slot:
        """Lend a live connection. The first half is the warm path: no round trip, one lock, one poll(0)."""
        wall = time()
        mono = monotonic()
        slot: Slot | None = None
        with self._lock:
            if self._idle and not self._waiters and self._idle[-1].role is role:
                slot = self._idle.pop()
                slot.move(_LENT)
                slot.owner = get_ident()
        if slot is None:
            return self._checkout_slowly(role, timeout)
        decision = decide(slot, wall, mono, self._generation, self._pid, role, slot.link.quiet(), self.config)
        if decision is not REUSE:
            return self._check(slot, role, Limit(timeout or self.config.timeout))
        slot.reuses += 1
        slot.borrowed_mono = mono
        if self.observed:
            self._tally.tell(Reused(self.name, monotonic() - mono))
        return slot

    def _checkout_slowly(self, role: Role, timeout: float | None) -> Slot:
        limit = Limit(timeout or self.config.timeout)
        slot = self._reserve(role, limit)
        return self._check(slot, role, limit)

    def _check(self, slot: Slot, role: Role, limit: Limit) -> Slot:
        """Make a reserved slot fit to lend: reuse, ping or replace what it holds, or open what it lacks."""
        try:
            if slot.state is _LENT:
                decision: object = decide(
                    slot,
                    time(),
                    monotonic(),
                    self._generation,
                    self._pid,
                    role,
                    slot.link.quiet(),
                    self.config,
                )
                if decision is PING:
                    decision = self._ping(slot, limit)
                if decision is REUSE:
                    slot.reuses += 1
                    slot.borrowed_mono = monotonic()
                    self._tally.tell(Reused(self.name, slot.borrowed_mono - limit.start))
                    return slot
                assert isinstance(decision, Replace)
                self._replace(slot, role, decision.reason)
            self._open(slot, limit)
        except BaseException:
            self._discard(slot, Reason.DEAD if slot.state is _LENT else None)
            raise
        slot.borrowed_mono = monotonic()
        return slot

    def checkout_transaction(self, role: Role, timeout: float | None, *, readonly: bool, guarded: bool) -> Slot:
        """Lend a live connection with an explicit transaction begun on it."""
        for last in (False, True):
            slot = self.checkout(role, timeout)
            try:
                slot.link.begin(readonly=readonly, guarded=guarded)
            except BaseException as error:
                lost = self._engine.classify(error) in HEALS
                self.checkin(slot, error)
                # Nobody has seen this connection yet: it may still be replaced by one that lives.
                if last or not lost:
                    raise
            else:
                return slot
        raise AssertionError("unreachable")

    def _reserve(self, role: Role, limit: Limit) -> Slot:
        """An idle slot, room for a new one, or a place in the queue until there is either."""
        me = get_ident()
        with self._lock:
            if not self._waiters:
                slot = self._take_idle(role, me)
                if slot is not None:
                    return slot
                if len(self._slots) < self.config.max_size:
                    slot = Slot(role, me)
                    self._slots.append(slot)
                    return slot
            hopeless = not self._idle and all(slot.owner == me for slot in self._slots)
            if not hopeless:
                waiter = _Waiter(me, role)
                self._waiters.append(waiter)
        if hopeless:
            raise self._timed_out(
                PoolTimeout(
                    f"pool {self.name}: this thread already holds {self._held()}, so waiting for another could never "
                    f"end: use the one it has, or raise max_size ({self.config.max_size})"
                ),
                0.0,
            )
        return self._queue(waiter, limit)

    def _held(self) -> str:
        return "the only connection" if self.config.max_size == 1 else f"all {self.config.max_size} connections"

    def _take_idle(self, role: Role, owner: int) -> Slot | None:
        """The idle slot used last, of this role; of the other role only if there is no room for a new one."""
        slot = next((slot for slot in reversed(self._idle) if slot.role is role), None)
        if slot is None:
            if not self._idle or len(self._slots) < self.config.max_size:
                return None
            slot = self._idle[0]
        self._idle.remove(slot)
        slot.move(_LENT)
        slot.owner = owner
        return slot

    def _queue(self, waiter: _Waiter, limit: Limit) -> Slot:
        try:
            granted = waiter.lock.acquire(timeout=max(limit.left(), 0.0))
        except BaseException:
            self._leave_queue(waiter)
            raise
        if not granted and (slot := self._step_out(waiter)) is None:
            waited = monotonic() - limit.start
            self._raise_timed_out(limit, waited)
        slot = waiter.slot
        assert slot is not None
        self._tally.tell(Waited(self.name, monotonic() - limit.start))
        return slot

    def _step_out(self, waiter: _Waiter) -> Slot | None:
        """Leave the queue, unless a slot was granted in the very last moment: then it is the waiter's all the same."""
        with self._lock:
            if waiter.slot is None:
                self._waiters.remove(waiter)
            return waiter.slot

    def _leave_queue(self, waiter: _Waiter) -> None:
        """Leave the queue for good, passing on what may have been granted meanwhile."""
        slot = self._step_out(waiter)
        if slot is None:
            return
        if slot.state is _CONNECTING:
            self._discard(slot, None)
        else:
            self._give_back(slot)

    def _raise_timed_out(self, limit: Limit, waited: float) -> NoReturn:
        text = (
            f"pool {self.name}: no connection came free within {waited:.2f} s ({self.stats()}"
            f"{'; last failure to connect: ' + self._connector.last_failure if self._connector.last_failure else ''})"
        )
        if limit.by_invocation:
            raise self._timed_out(DeadlineExceeded(f"{text}; the invocation had no more time"), waited)
        raise self._timed_out(PoolTimeout(text), waited)

    def _timed_out(self, error: LambdaPoolError, waited: float) -> LambdaPoolError:
        self._tally.tell(TimedOut(self.name, waited))
        return error

    def _ping(self, slot: Slot, limit: Limit) -> object:
        """One bounded round trip: REUSE, or Replace if no good answer came."""
        start = monotonic()
        failure: Exception | None = None
        try:
            slot.link.ping(max(min(self.config.ping_timeout, limit.left()), 0.001))
        except Exception as error:  # noqa: BLE001 - whatever goes wrong, the connection is not lent
            failure = error
        self._tally.tell(Pinged(self.name, monotonic() - start, failure is None))
        if failure is None:
            return REUSE
        log.debug("pool %s: ping failed: %s", self.name, failure)
        self._note_failover(slot, self._engine.classify(failure))
        return replace(Reason.DEAD)

    def _note_failover(self, slot: Slot, kind: Failure) -> None:
        """A server that said good-bye, or turned reader, condemns every connection that is as old as this one."""
        if kind not in FAILED_OVER:
            return
        with self._lock:
            if slot.generation == self._generation:
                self._generation += 1
        self._endpoint.failed(slot.endpoint)

    def _replace(self, slot: Slot, role: Role, reason: Reason) -> None:
        """Close what the slot holds and make it ready for a new connection."""
        wall, mono = time(), monotonic()
        age, idle = slot.age(wall, mono), slot.idle(wall, mono)
        self._tally.tell(Replaced(self.name, reason, age, idle, slot.link.backend_id))
        log.info(
            "pool %s: connection replaced: %s, age %.1f s, idle %.1f s, backend %d",
            self.name,
            reason.value,
            age,
            idle,
            slot.link.backend_id,
        )
        self._close_link(slot, reason)
        slot.role = role
        slot.move(_CONNECTING)

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
        slot.move(_LENT)

    def _reserve_spare(self, wanted: int) -> Slot | None:
        """Room for one more connection, up to `wanted` in all; nobody waits for it."""
        with self._lock:
            if len(self._slots) >= min(wanted, self.config.max_size):
                return None
            slot = Slot(_WRITER, get_ident())
            self._slots.append(slot)
            return slot

    # --- return -------------------------------------------------------------------------------------------------------

    def checkin(self, slot: Slot, error: BaseException | None, *, strict: bool = False) -> None:
        """Take a connection back. The first branch is the warm path.

        `error` is what the borrower's block raised; what goes wrong here is then logged and not raised. `strict`: a
        block that ended well on a transaction that cannot be committed raises too.
        """
        if error is None and slot.link.clean() and not self._reset_session and slot.pid == self._pid:
            self._give_back(slot)
            return
        self._settle(slot, error, strict=strict)

    def _give_back(self, slot: Slot) -> None:
        """Cache a clean connection, or hand it to the borrower who has waited longest."""
        wall = time()
        mono = monotonic()
        with self._lock:
            if slot.state is _LENT and slot.generation == self._generation:
                slot.idle_wall = wall
                slot.idle_mono = mono
                slot.move(_IDLE)
                if self._waiters:
                    self._grant(slot)
                else:
                    self._idle.append(slot)
                kept = True
            else:
                kept = False
        if not kept:
            self._discard(slot, Reason.GENERATION)
        if self.observed:
            self._tally.tell(Returned(self.name, mono - slot.borrowed_mono))
        if self.config.leak_after and mono - slot.borrowed_mono > self.config.leak_after:
            self._leaked(slot, mono)

    def _grant(self, slot: Slot) -> None:
        """Under the lock: give the slot to the first in the queue."""
        waiter = self._waiters.popleft()
        if slot.state is _IDLE:
            slot.move(_LENT)
        slot.owner = waiter.owner
        waiter.slot = slot
        waiter.lock.release()

    def _settle(self, slot: Slot, error: BaseException | None, *, strict: bool) -> None:
        """End the borrower's transaction and bring the connection back to how it was lent, or close it."""
        link = slot.link
        if slot.pid != self._pid:
            # Borrowed before a fork: this process owns nothing of it but a descriptor.
            self._discard(slot, Reason.FORKED)
            return
        kind = Failure.OTHER if error is None else self._engine.classify(error)
        self._note_failover(slot, kind)
        reason = Reason.USER_CLOSED if link.closed_by_user() else Reason.BROKEN
        problem: BaseException | None = None
        keep = False
        if reason is Reason.BROKEN:
            try:
                self._finish(slot, error, strict=strict)
            except BaseException as failure:  # noqa: BLE001 - raised below, once the slot is safe
                problem = failure
            keep = kind not in FAILED_OVER and not isinstance(problem, CommitUncertain) and self._restore(slot)
        if keep:
            self._give_back(slot)
        else:
            self._discard(slot, reason)
        if problem is None:
            return
        if error is None or not isinstance(problem, Exception):
            raise problem
        log.debug("pool %s: cleaning up after an error failed too: %s", self.name, problem)

    def _finish(self, slot: Slot, error: BaseException | None, *, strict: bool) -> None:
        commit = error is None
        left = invocation.remaining()
        if left is not None:
            left = max(left, _LEAST)
        # A rollback that takes longer than a checkout may is given up: closing has the same effect.
        timeout = left if commit else min(self.config.timeout, left or self.config.timeout)
        outcome = slot.link.finish(commit=commit, timeout=timeout)
        if outcome is Outcome.ROLLED_BACK:
            self._tally.tell(RolledBack(self.name, "error"))
        elif outcome is Outcome.FAILED and commit:
            self._tally.tell(RolledBack(self.name, "failed transaction"))
            text = (
                f"pool {self.name}: a block ended normally, but its transaction had failed or its connection was lost, "
                "and the error was swallowed: nothing of the transaction is saved"
            )
            if strict:
                raise LambdaPoolError(text)
            log.warning("%s", text)

    def _restore(self, slot: Slot) -> bool:
        timeout = self.config.ping_timeout
        try:
            if not slot.link.restore(timeout):
                return False
            if self._reset_session:
                slot.link.reset_session(timeout)
        except Exception as error:  # noqa: BLE001 - a connection that cannot be brought back is closed
            log.debug("pool %s: bringing a connection back failed: %s", self.name, error)
            return False
        return True

    def _discard(self, slot: Slot, reason: Reason | None) -> None:
        """Take a slot out of the pool, close what it holds (`reason` None: nothing), and wake who waits for room."""
        with self._lock:
            mine = slot.state is not _GONE
            if mine:
                slot.move(_GONE)
                self._slots.remove(slot)
                self._reused += slot.reuses
                self._make_room()
        if reason is not None and (mine or not slot.severed):
            self._close_link(slot, reason)

    def _make_room(self) -> None:
        """Under the lock: let the first in the queue open a connection, if there is room for one."""
        if self._waiters and len(self._slots) < self.config.max_size:
            waiter = self._waiters[0]
            slot = Slot(waiter.role, waiter.owner)
            self._slots.append(slot)
            self._grant(slot)

    def _close_link(self, slot: Slot, reason: Reason) -> None:
        if slot.pid != self._pid:
            slot.link.drop()
        else:
            slot.link.close(_GOODBYE)
        self._tally.tell(Closed(self.name, reason, slot.age(time(), monotonic()), slot.link.backend_id))

    # --- lifecycle ----------------------------------------------------------------------------------------------------

    def end_invocation(self) -> None:
        """Take back what borrowers still hold: an environment is never frozen with an open transaction."""
        if len(self._idle) == len(self._slots):
            return
        with self._lock:
            held = [slot for slot in self._slots if slot.state is _LENT]
            for slot in held:
                slot.move(_GONE)
                self._slots.remove(slot)
                self._reused += slot.reuses
                self._make_room()
            # A slot that an interrupt (a signal's exception) caught between the list and its borrower.
            for slot in self._slots:
                if slot.state is _IDLE and slot not in self._idle:
                    self._idle.append(slot)
        mono = monotonic()
        for slot in held:
            self._leaked(slot, mono)
            if slot.owner == get_ident():
                self._close_link(slot, Reason.LEAKED)
            else:
                # Its thread may be inside the driver, where closing would pull the memory from under it.
                slot.severed = True
                slot.link.sever()
                self._tally.tell(Closed(self.name, Reason.LEAKED, slot.age(time(), mono), slot.link.backend_id))

    def _leaked(self, slot: Slot, mono: float) -> None:
        where, stack = _describe(slot.where)
        held = mono - slot.borrowed_mono
        self._tally.tell(Leaked(self.name, held, where, stack))
        log.warning("pool %s: a connection was held for %.1f s, borrowed at %s%s", self.name, held, where, stack)

    def after_fork(self) -> None:
        """In a forked child: start empty, and let go of the parent's sockets without a word to the server."""
        for slot in self._slots:
            if slot.state is _IDLE:
                slot.link.drop()
        self._start_afresh()
        self._tally.start_afresh()

    def tell(self, event: Event) -> None:
        """Count one event and pass it to every observer."""
        self._tally.tell(event)


def _describe(where: object) -> tuple[str, str]:
    """file:line of a borrower, and its stack where one was recorded."""
    if isinstance(where, tuple) and isinstance(where[0], CodeType):
        code, instruction = where
        line = next((ln for start, end, ln in code.co_lines() if start <= instruction < end), code.co_firstlineno)
        return f"{code.co_filename}:{line} in {code.co_name}", ""
    return str(where), ""
