"""The pool: one lock, one loop that acquires. Synchronous, thread-safe, without a thread of its own.

It decides under the lock, by the pure functions in `core`, and acts outside of it.
"""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import RLock
from time import monotonic, time
from typing import TYPE_CHECKING
from weakref import finalize

from . import borrower, invocation, unavailable
from .auth.base import Auth
from .aws.hosts import is_dsql
from .backoff import uniform
from .config import Config, in_lambda, never_frozen
from .connector import Connector
from .core.dispatch import EventDispatcher
from .core.entry import UNOPENED, Entry, State, Work
from .core.policy import Verdict, at_checkout
from .core.state import PoolState
from .endpoints.base import EndpointSource, Role
from .engines.base import AT_REST, INVALIDATES_POOL, MIN_IO_TIMEOUT, Engine, Failure, Status
from .events import (
    CheckedOut,
    Closed,
    Forked,
    Observer,
    Pinged,
    Reason,
    Replaced,
    Returned,
    Reused,
    Waited,
)
from .invocation import Deadline
from .release import release
from .request import asking, note_failure
from .waiting import check_patched, current_borrower, turn

if TYPE_CHECKING:
    from .stats import PoolStats

log: logging.Logger = logging.getLogger("lambda_pool")

_JITTER = 0.1  # of max_lifetime, either way
# Seconds for a polite close; Lambda's shutdown leaves 300 ms for everything.
CLOSE_TIMEOUT = 0.1


class ConnectionPool:
    """Connections to one logical database. `lambda_pool.Pool` is what users see of it."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        auth: Auth,
        endpoint: EndpointSource,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.config = config
        self.name: str = config.name
        self._start_afresh()
        self.events: EventDispatcher = EventDispatcher(config.name, observers, self.lock)
        self.connector: Connector = Connector(config, engine, auth, endpoint, self.events)
        self.warmed: bool = False
        self.awaited: bool = engine.awaited
        self._tell_unknown_deadline = config.cancel_before_deadline > 0 and in_lambda()
        self._reader_role = Role.READER if endpoint.has_reader else Role.WRITER
        self._max_idle = float("inf") if config.max_idle is None else config.max_idle
        # Whether the server is asked how crowded it is, and whether an idle connection is due to ask it now.
        self.asks: bool = config.keep_below < 1 and not config.url.pooled and not never_frozen()
        self.to_ask: bool = False

    def _start_afresh(self) -> None:
        # Reentrant, because a signal handler may interrupt the very borrower that holds it.
        self.lock: RLock = RLock()
        self.state: PoolState = PoolState(self.config.max_size)
        self.pid: int = os.getpid()
        # A pool that nothing refers to any more closes its idle connections.
        finalize(self, _close_abandoned, self.state, self.pid).atexit = False

    def __repr__(self) -> str:
        url = self.config.url
        return f"<Pool {self.name!r} {url.engine}://{url.hosts}/{url.database} {self.stats()}>"

    # --- checkout -----------------------------------------------------------------------------------------------------

    def acquire(self, role: Role, deadline: Deadline) -> Entry:
        """Lend a live connection. If one is idle and fresh, this takes no round trip: one lock, one poll of its socket.

        Raises PoolTimeout, DeadlineExceeded, ConnectError, CredentialsError, EndpointError or ConfigError.
        """
        while True:
            entry, waited = self._reserve(role, deadline)
            try:
                if waited:
                    self.events.emit(Waited(self.name, deadline.elapsed(), self.connector.server()))
                if self._prepare(entry, role, deadline):
                    return entry
            except BaseException as error:
                self.discard(entry, Reason.DEAD)
                note_failure(error)
                raise
            self.discard(entry, Reason.LEAKED)  # taken away at the end of an invocation, while it was being checked

    def acquire_transaction(self, deadline: Deadline, *, readonly: bool, guarded: bool) -> Entry:
        """Lend a live connection with an explicit transaction begun on it. See `EngineConnection.begin`."""
        role = self.role(readonly=readonly)
        first = True
        while True:
            entry = self.acquire(role, deadline)
            try:
                entry.link.begin(readonly=readonly, guarded=guarded, timeout=self.begin_timeout(entry, deadline))
            except BaseException as error:
                self.release(entry, error)
                if not unavailable.may_try_another(self, error, deadline, first=first):
                    raise
                first = False
            else:
                return entry

    def begin_timeout(self, entry: Entry, deadline: Deadline) -> float:
        """Seconds for BEGIN at a checkout. Only an idle connection may be dead; a new one or a pooler is just slow."""
        slow = entry.fresh or self.connector.is_pooled(entry.endpoint)
        return max(min(float("inf") if slow else self.config.ping_timeout, deadline.left()), MIN_IO_TIMEOUT)

    def role(self, *, readonly: bool) -> Role:
        """Which role a borrower is sent to: the reader, if there is one and the borrower only reads."""
        return self._reader_role if readonly else Role.WRITER

    def _reserve(self, role: Role, deadline: Deadline) -> tuple[Entry, bool]:
        """An idle entry, or room for a new one, waiting in the queue until there is either; and whether it waited."""
        me, request = current_borrower(), asking.get()
        with self.lock:
            if self.state.queue:
                self.state.forget_turns(me)
            entry = self.state.acquire(role, me, request=request)
            if entry is not None:
                return entry, False
            hopeless = invocation.in_one_flow(me) and self.state.held_by(me, request) == self.config.max_size
            if not hopeless:
                place = turn(me, role)
                self.state.queue.append(place)
        if hopeless:
            raise unavailable.hopeless(self)
        try:
            unavailable.take_from_stuck(self)
            while entry is None and (left := self.connector.left(deadline)) > 0:
                place.wait(left)
                with self.lock:
                    entry = self.state.acquire(role, me, place, request=request)
        finally:
            with self.lock:
                self.state.leave(place)
        if entry is None:
            raise unavailable.timed_out(self, deadline)
        return entry, True

    def _prepare(self, entry: Entry, role: Role, deadline: Deadline) -> bool:
        """Make a reserved entry fit to lend: reuse, ping or replace what it holds, or open what it lacks.

        False if it was taken away meanwhile.
        """
        fresh = entry.state is State.CONNECTING
        if not fresh:
            decision = self._decide(entry, role)
            if decision is Verdict.PING:
                decision = self._ping(entry, deadline)
            if isinstance(decision, Reason):
                with self.lock:
                    if entry.state is not State.LENT:
                        return False
                    entry.state = State.CONNECTING
                self._replace(entry, role, decision)
                fresh = True
        if fresh:
            self.open(entry, deadline)
        else:
            entry.reuses += 1
        if self._tell_unknown_deadline and invocation.remaining() is None:
            self._tell_unknown_deadline = False
            borrower.warn_unknown_deadline(self.name)
        entry.fresh = fresh
        entry.work = Work.OPEN
        entry.answered, entry.condemned, entry.cancel_mono = False, False, -1.0
        if entry.request is not None:
            entry.request.note_lent()
        entry.borrowed_mono = monotonic()
        entry.checkout = entry.borrowed_mono - deadline.start
        if self.events.observers:
            self.events.emit((CheckedOut if fresh else Reused)(self.name, entry.checkout))
        return True

    def _decide(self, entry: Entry, role: Role) -> Verdict | Reason:
        return at_checkout(
            entry,
            time(),
            monotonic(),
            self.state.generation,
            self.pid,
            role,
            entry.link.is_silent() and entry.link.status() is Status.IDLE,
            self.config.ping_after,
            self._max_idle,
        )

    def _ping(self, entry: Entry, deadline: Deadline) -> Verdict | Reason:
        """One bounded round trip: REUSE, or the reason to replace it if no good answer came."""
        if entry.link.status() not in AT_REST:
            borrower.warn_used_after_return(self.events, entry)
            return Reason.BROKEN
        wall, start = time(), monotonic()
        try:
            entry.link.ping(max(min(self.config.ping_timeout, deadline.left()), 0.001))
        except Exception as error:
            self.events.emit(Pinged(self.name, monotonic() - start, False))
            log.debug("pool %s: ping failed: %s", self.name, error)
            kind = self.classify(error)
            if kind is Failure.FOREIGN:
                raise
            self.note_failover(entry, kind)
            return Reason.DEAD
        entry.heard(wall, start)
        self.events.emit(Pinged(self.name, monotonic() - start, True))
        return Verdict.REUSE

    def _replace(self, entry: Entry, role: Role, reason: Reason) -> None:
        """Close what the entry holds and make it ready for a new connection."""
        wall, mono = time(), monotonic()
        age, idle, backend = entry.age(wall, mono), entry.idle(wall, mono), entry.link.backend_id
        self.events.emit(Replaced(self.name, reason, age, idle, backend))
        log.info(
            "pool %s: connection replaced: %s, age %.1f s, idle %.1f s, backend %d",
            self.name,
            reason.value,
            age,
            idle,
            backend,
            extra={"pool": self.name, "reason": reason.value, "age": age, "idle": idle, "backend_id": backend},
        )
        self.close_link(entry, reason)
        entry.link = UNOPENED
        entry.role = role

    def open(self, entry: Entry, deadline: Deadline) -> None:
        """Open the entry's connection. Until the deadline, it retries after failures that time may heal."""
        check_patched()
        # Read before connecting, so that a failover meanwhile condemns what is opened now.
        generation = self.state.generation
        link, entry.endpoint = self.connector.open(entry.role, deadline)
        entry.opened(
            link,
            generation=generation,
            pid=self.pid,
            lifetime=self.config.max_lifetime * (1 + _JITTER * (2 * uniform() - 1)),
            wall=time(),
            mono=monotonic(),
            timer=link.session_idle,
            longest=invocation.time_out() if link.session_idle else 0.0,
            asks=self.asks and not entry.endpoint.proxy and not is_dsql(entry.endpoint.host),
        )
        with self.lock:
            if entry.state is State.CONNECTING:
                entry.state = State.LENT
                return
        self.emit_closed(entry, Reason.LEAKED)  # taken away meanwhile: its borrower's task closes it, see `give_back`

    # --- return -------------------------------------------------------------------------------------------------------

    def release(self, entry: Entry, error: BaseException | None = None, *, strict: bool | None = None) -> None:
        """Take a connection back. See `release.release`."""
        release(self, entry, error, strict=strict)

    def give_back(self, entry: Entry) -> None:
        """Cache a clean connection, and wake the borrower that has waited longest."""
        wall, mono = time(), monotonic()
        entry.idle_wall, entry.idle_mono = wall, mono
        if not entry.answered:
            entry.alive_wall, entry.alive_mono = wall, mono
        if wall >= entry.ask_wall or mono >= entry.ask_mono:
            self.to_ask = True
        returned = self._returned(entry, mono)
        with self.lock:
            kept = self.state.give_back(entry)
            outdated = entry.generation != self.state.generation
        if not kept:
            # It was revoked, reported and aborted meanwhile. This thread, its last user, closes it.
            self.discard(entry, Reason.BROKEN)
        if returned is not None:
            self.events.emit(returned)
        if outdated:
            self._close_outdated()

    def _returned(self, entry: Entry, mono: float) -> Returned | None:
        """The event for a borrow that ends; None if it was emitted already, or if there are no observers."""
        if not self.events.observers:
            entry.borrowed_mono = 0.0
            return None
        with self.lock:  # its borrower and who takes it away may both be here
            since, entry.borrowed_mono = entry.borrowed_mono, 0.0
            # This entry counts in any case: if it was taken away, it is no longer listed, but was in use until now.
            others = sum(each.state is not State.IDLE for each in self.state.entries if each is not entry)
        return Returned(self.name, mono - since, entry.checkout, not entry.fresh, others + 1) if since else None

    def emit_returned(self, entry: Entry) -> None:
        """Emit the event of a borrow whose connection leaves the pool; only once, even if it comes back after all."""
        returned = self._returned(entry, monotonic())
        if returned is not None:
            self.events.emit(returned)

    # --- closing ------------------------------------------------------------------------------------------------------

    def discard(self, entry: Entry, reason: Reason) -> None:
        """Take an entry out of the pool, close what it holds, and wake a borrower that waits for room."""
        with self.lock:
            mine = self.state.retire(entry)
        if not mine:
            # It was reported when it was aborted. Only now is nobody inside the driver, so its memory can be freed.
            if entry.link is not UNOPENED:
                entry.link.close(CLOSE_TIMEOUT)
            return
        try:
            # First, so that there are never more connections than `max_size`.
            self.close_link(entry, reason)
        finally:
            self.free(entry)

    def close_link(self, entry: Entry, reason: Reason) -> None:
        """Close an entry's connection, politely if it is this process's own, and emit the event."""
        if entry.link is UNOPENED:
            return
        if entry.pid != self.pid:
            entry.link.discard()
        else:
            entry.link.close(CLOSE_TIMEOUT)
        self.emit_closed(entry, reason)

    def emit_closed(self, entry: Entry, reason: Reason) -> None:
        """Emit that an entry's connection was closed."""
        self.events.emit(Closed(self.name, reason, entry.age(time(), monotonic()), entry.link.backend_id))

    def free(self, entry: Entry) -> None:
        """Give up the room of an entry that was taken out."""
        with self.lock:
            self.state.free(entry)

    def _close_outdated(self) -> None:
        """Close every idle connection that is not of this generation."""
        self.close_each(lambda: self.state.retire_idle(current_borrower()), self.state.why_outdated)

    def close_each(self, find: Callable[[], Entry | None], reason: Callable[[Entry], Reason]) -> None:
        """Close what `find`, called with the lock held, takes out of the pool, until it finds nothing."""
        while True:
            with self.lock:
                entry = find()
            if entry is None:
                return
            try:
                self.close_link(entry, reason(entry))
            finally:
                self.free(entry)

    # --- what an error means ------------------------------------------------------------------------------------------

    def classify(self, error: BaseException) -> Failure:
        """What an error of the driver means."""
        return self.connector.engine.classify(error)

    def kind_of(self, entry: Entry, error: BaseException | None) -> Failure:
        """What went wrong in a borrower's block, even if the block raised an error of its own, or none.

        A write that the block's own read-only transaction refused is not a failover.
        """
        kind, facts = Failure.OTHER if error is None else self.classify(error), entry.link.inspect()
        if kind in {Failure.OTHER, Failure.FOREIGN}:
            kind = facts.hidden
        return Failure.OTHER if kind is Failure.READ_ONLY and facts.read_only else kind

    def note_failover(self, entry: Entry, kind: Failure) -> bool:
        """Condemn every connection as old as this one if the server shut down, became a reader or changed its schema.

        Out: whether `kind` means that.
        """
        if kind not in INVALIDATES_POOL:
            return False
        with self.lock:
            if entry.generation == self.state.generation:
                self.state.generation += 1
        if kind is not Failure.STALE:
            self.connector.endpoint.failed(entry.endpoint)
        return True

    # --- the pool as a whole ------------------------------------------------------------------------------------------

    def stats(self) -> "PoolStats":
        """The pool's figures now."""
        from .stats import PoolStats  # a dataclass, whose import would cost a cold start 1 ms

        with self.lock:
            entries = self.state.entries
            idle = sum(entry.state is State.IDLE for entry in entries)
            return PoolStats(
                size=len(entries),
                idle=idle,
                in_use=len(entries) - idle,
                waiting=len(self.state.queue),
                reused=self.state.reused + sum(entry.reuses for entry in entries),
                **self.events.counts(),
            )

    def close(self) -> None:
        """Close every connection: idle ones now, lent ones when they are returned. A later checkout opens a new one."""
        with self.lock:
            self.state.close()
        self._close_outdated()

    def forget(self) -> None:
        """Close every idle connection, and forget every token, secret and address (around a snapshot)."""
        self.close()
        self.connector.forget()

    def after_fork(self) -> None:
        """In a forked child: start empty, and let go of the parent's sockets without a word to the server."""
        idle = self.state.idle()
        self._start_afresh()
        self.events.start_afresh(self.lock)
        for entry in idle:
            entry.link.discard()
        # With their locks: a thread that stayed in the parent may have held one.
        self.connector.forget()
        self.events.emit(Forked(self.name))


def _close_abandoned(state: PoolState, pid: int) -> None:
    """Close the idle connections of a pool that nothing refers to any more."""
    for entry in state.idle():
        with suppress(Exception):  # the next one must be closed, too
            if os.getpid() == pid == entry.pid:
                entry.link.close(CLOSE_TIMEOUT)
            else:
                entry.link.discard()
