"""What Lambda does to a process, told to every pool in it: invocations, shutdown, snapshots, deadlines and forks.

The only place that installs signal handlers or fork hooks.
"""

import logging
import os
from collections.abc import Callable, Iterator
from threading import get_ident
from typing import Any
from weakref import ReferenceType, ref

from .. import config as configuration
from ..invocation import RESERVE, reserve, running
from ..pool import ConnectionPool

_pools: list[ReferenceType[ConnectionPool]] = []


class _State:
    """What is true of this process as a whole. An object: to set a class's attribute empties CPython's caches."""

    cold = True
    hooked = False
    cancel_before = 0.0
    """The longest `cancel_before_deadline` of all pools; 0: none has it, and no invocation pays for it."""


process = _State()


def pools() -> Iterator[ConnectionPool]:
    """Every pool that somebody still holds."""
    for known in _pools:
        pool = known()
        if pool is not None:
            yield pool


def register(pool: ConnectionPool) -> None:
    """Take a new pool into care. Pools that are no longer referenced drop out by themselves."""
    _pools[:] = [known for known in _pools if known() is not None]
    _pools.append(ref(pool))
    if not process.hooked:
        process.hooked = True
        os.register_at_fork(after_in_child=_after_fork)
    process.cancel_before = max(known.config.cancel_before_deadline for known in pools())
    reserve.seconds = max(RESERVE, process.cancel_before)
    initialization = configuration.lambda_initialization()
    if initialization == "":
        return
    if initialization == "snap-start":
        from . import snapstart

        snapstart.install()
    if pool.config.graceful_shutdown and initialization != "lambda-managed-instances":
        from . import shutdown

        shutdown.install()


def arm() -> Callable[[], None] | None:
    """Arm the alarm of `cancel_before_deadline` for this invocation. Out: what disarms it; None if it cannot ring."""
    from .alarm import Alarm

    return Alarm(process.cancel_before).arm()


def end_invocation(context: Any, *, failed: bool) -> None:
    """Clean up after an invocation in every pool, and let observers count it. Never raises an Exception."""
    cold = process.cold
    if cold:
        process.cold = False
    for known in _pools:
        pool = known()
        if pool is None:
            continue
        # Nearly always there is nothing to take back.
        if len(pool.idle) != len(pool.slots) or pool.waiters or pool.left_open() is not None:
            pool.end_invocation(alone=len(running) < 2)
        if pool.observed:
            if pool.report_due or failed or cold:
                pool.tell_ended(pool.config.name, failed, cold, getattr(context, "aws_request_id", ""))
            pool.report_due = True


def _after_fork() -> None:
    me = get_ident()
    for thread in running.keys() - {me}:  # they stayed with the parent, and a new one may get the number of one of them
        del running[thread]
    for pool in pools():
        try:
            pool.after_fork()
        except Exception:
            # Of an `Auth` or `EndpointSource` of the user's own; the next pool must start afresh all the same.
            logging.getLogger("lambda_pool").exception("pool %s: starting afresh after a fork failed", pool.name)
