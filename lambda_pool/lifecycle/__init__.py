"""Tells every pool of the process what Lambda does to it: invocations, shutdown, snapshots, deadlines and forks.

This is the only place that installs signal handlers or fork hooks.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from threading import current_thread, get_ident, main_thread
from typing import Any, ClassVar
from weakref import ReferenceType, ref

from .. import config as configuration
from .. import reclaim
from ..errors import CommitUncertain, LambdaPoolError
from ..events import InvocationEnded
from ..invocation import RESERVE, begun, remaining, reserve, running
from ..pool import ConnectionPool
from ..request import Request, asking, unfinished

log: logging.Logger = logging.getLogger("lambda_pool")

AGAIN = 0.1
"""Seconds between looks for a statement to cancel: the one that is too long may begin after the first look.

This must be longer than the interval at which a driver's wait lets Python handle signals (20 ms if a connection is
watched): psycopg starts its interval again after each alarm, and would never reach the end of it."""

_pools: list[ReferenceType[ConnectionPool]] = []


class _State:
    """What is true of this process as a whole."""

    cold = True
    made: ClassVar[dict[tuple[object, ...], ReferenceType[ConnectionPool]]] = {}
    """By name and place, the last pool that was made in an invocation, or in Lambda."""
    warned: ClassVar[set[tuple[object, ...]]] = set()
    cancel_before: float = 0.0
    """The longest `cancel_before_deadline` of all pools; 0 if none sets it, and then no invocation pays for it."""


process: _State = _State()


def pools() -> Iterator[ConnectionPool]:
    """Every pool that somebody still holds."""
    for known in list(_pools):  # another thread may make one meanwhile
        pool = known()
        if pool is not None:
            yield pool


def register(pool: ConnectionPool) -> None:
    """Keep track of a new pool. Pools that are no longer referenced drop out by themselves."""
    _pools.append(ref(pool, _pools.remove))
    _note_made(pool)
    look_at_deadlines()
    if configuration.lambda_initialization() == "snap-start":
        from . import snapstart

        snapstart.install()


def look_at_deadlines() -> None:
    """Note how long before a deadline the most careful pool wants to end what runs."""
    while True:
        looked = list(_pools)
        # Connections for an event loop watch the clock themselves.
        process.cancel_before = max(
            (known.config.cancel_before_deadline for known in pools() if not known.awaited), default=0.0
        )
        reserve.seconds = max(RESERVE, *(known.config.cancel_before_deadline for known in pools()), 0.0)
        if looked == _pools:  # otherwise another thread made one, and may have looked before this one
            return


def due_to_cancel(left: float | None) -> Iterator[tuple[ConnectionPool, float]]:
    """The pools that cancel what runs now, `left` seconds before the end (None: not known), each with its option."""
    for pool in pools():
        before = pool.config.cancel_before_deadline
        # This is first asked at the time of the pool that cancels earliest. For the others it may be too early.
        if before and not pool.awaited and (left is None or left - before <= AGAIN / 2):
            yield pool, before


def _note_made(pool: ConnectionPool) -> None:
    """Warn, once for each name and database, about a pool that is made again in each invocation."""
    if not (running or configuration.in_lambda()):
        return
    url = pool.config.url
    place = (pool.name, url.engine, url.addresses, url.database, url.user)
    before = process.made.get(place)
    # Two pools that live side by side at module scope are made on purpose.
    anew = before is not None and (bool(running) or before() is None)
    if anew and place not in process.warned:
        process.warned.add(place)
        log.warning(
            "pool %s: a Pool for the same database was made before in this environment: make it once, at module scope, "
            "so that its connections are kept for the next invocation",
            pool.name,
        )
    process.made[place] = ref(pool)


def begin_invocation(context: Any, since: float) -> Callable[[], None] | None:
    """Note that an invocation began at `since` (monotonic, seconds). Out: what disarms its alarm; None without one."""
    running[get_ident()] = context
    begun.at = since
    return arm() if process.cancel_before else None


def arm() -> Callable[[], None] | None:
    """Arm the alarm of `cancel_before_deadline` for this invocation. Out: what disarms it; None if it cannot ring."""
    if current_thread() is main_thread():
        from .alarm import Alarm

        return Alarm(process.cancel_before).arm()
    left = remaining()
    if left is None:
        return None
    from .watch import watch

    me = get_ident()
    return watch(left + reserve.seconds, process.cancel_before, lambda entry: len(running) < 2 or entry.owner == me)


def arm_request(request: Request) -> Callable[[], None] | None:
    """The same for a request of a server. Out: what disarms it; None if no pool asks for it or its end is unknown."""
    left = request.left()
    if left is None or not process.cancel_before:
        return None
    from .watch import watch

    return watch(left, process.cancel_before, lambda entry: entry.request is request)


def end_request(request: Request, *, failed: bool, counted: bool) -> LambdaPoolError | None:
    """Clean up after a request, and let observers count it if it is `counted`.

    Out: the error to answer with if the request did not fail: its work is not saved, or nobody knows whether it is.
    """
    try:
        request.over = True
        unfinished.discard(ref(request))
        problem = gravest([(pool, reclaim.end_request(pool, request)) for pool in pools()], failed=failed)
    except BaseException:  # a signal handler may raise anywhere: nothing may stay lent
        for pool in pools():
            reclaim.end_request(pool, request)
        raise
    if counted:
        cold, process.cold = process.cold, False
        asked = asking.set(Request(request.deadline))  # observers may hold up the answer
        try:
            for pool in pools():
                if pool.events.observers:
                    pool.events.emit(InvocationEnded(pool.name, failed or problem is not None, cold, ""))
        finally:
            asking.reset(asked)
    return problem


def gravest(found: Iterable[tuple[ConnectionPool, LambdaPoolError | None]], *, failed: bool) -> LambdaPoolError | None:
    """The worst problem that pools found: first CommitUncertain, after which nobody may simply try again.

    If nothing `failed` and a pool's option `unsaved` asks only for a warning, its problem is logged here instead.
    """
    problems = []
    for pool, problem in found:
        if problem is not None and (failed or pool.config.unsaved == "raise"):
            problems.append(problem)
        elif problem is not None:
            log.warning("%s", problem)
    return max(problems, key=lambda each: isinstance(each, CommitUncertain), default=None)


def due_to_ask() -> list[ConnectionPool]:
    """The pools that must ask how crowded their server is, when a request has ended and no other runs here.

    An open WebSocket does not count as running: there may always be one.
    """
    busy = running or any(not each.lasting for known in list(unfinished) if (each := known()) is not None)
    return [] if busy else [pool for pool in pools() if pool.to_ask]


def ask(pool: ConnectionPool, until: float | None = None) -> None:
    """Let a pool ask, in at most `ping_timeout` seconds and by `until` (monotonic). See `crowding.settle`."""
    from .. import crowding

    crowding.settle(pool, until)


def end_invocation(context: Any, since: float, *, failed: bool) -> None:
    """Clean up after an invocation that began at `since` (monotonic, seconds), and let observers count it.

    If it did not fail but left work open, raises NotCommitted or CommitUncertain once everything is cleaned up. Raises
    nothing else.
    """
    cold, process.cold = process.cold, False
    problem = gravest(take_back(since), failed=failed)
    for pool in pools():  # only after each has taken back its own, however long a server is silent
        if pool.to_ask:
            ask(pool)
        if pool.events.observers:
            ended_badly = failed or problem is not None
            pool.events.emit(InvocationEnded(pool.name, ended_badly, cold, getattr(context, "aws_request_id", "")))
    if problem is not None and not failed:
        raise problem


def take_back(since: float, who: str = "handler") -> list[tuple[ConnectionPool, LambdaPoolError | None]]:
    """Let every pool take back what was borrowed after `since`, and say what it found: see `reclaim.end_invocation`."""
    return [(pool, reclaim.end_invocation(pool, since, alone=len(running) < 2, who=who)) for pool in pools()]


def _after_fork() -> None:
    me = get_ident()
    for thread in running.keys() - {me}:  # they stayed in the parent, and a new thread may get one of their numbers
        del running[thread]
    for known in list(unfinished):  # so did the requests: nobody here would learn that they are over
        if (request := known()) is not None:
            request.over = True
    unfinished.clear()
    if "lambda_pool.lifecycle.watch" in sys.modules:
        from . import watch

        watch.start_afresh()
    for pool in pools():
        try:
            pool.after_fork()
        except Exception:
            # An error in the user's own `Auth` or `EndpointSource`. The next pool must start afresh all the same.
            log.exception("pool %s: the reset after a fork failed", pool.name)


# At import and not with the first pool: a hook that others register after it may use a pool.
os.register_at_fork(after_in_child=_after_fork)
