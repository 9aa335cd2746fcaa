"""What Lambda does to a process, told to every pool in it: invocations, shutdown, snapshots, deadlines and forks.

The only place that installs signal handlers or fork hooks.
"""

import os
from collections.abc import Callable, Iterator
from weakref import ReferenceType, ref

from .. import config as configuration
from ..events import InvocationEnded
from ..invocation import Invocation
from ..pool import ConnectionPool

_pools: list[ReferenceType[ConnectionPool]] = []


class _Process:
    """What is true of this process as a whole."""

    cold = True
    hooked = False
    cancel_before = 0.0
    """The longest `cancel_before_deadline` of all pools; 0: none has it, and no invocation pays for it."""


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
    if not _Process.hooked:
        _Process.hooked = True
        os.register_at_fork(after_in_child=_after_fork)
    _Process.cancel_before = max(known.config.cancel_before_deadline for known in pools())
    initialization = configuration.lambda_initialization()
    if initialization == "":
        return
    if initialization == "snap-start":
        from . import snapstart

        snapstart.install()
    if pool.config.graceful_shutdown and initialization != "lambda-managed-instances":
        from . import shutdown

        shutdown.install()


def take_cold() -> bool:
    """True for the first invocation of this environment, False ever after."""
    cold, _Process.cold = _Process.cold, False
    return cold


def arm(invocation: Invocation) -> Callable[[], None] | None:
    """Arm the alarm of `cancel_before_deadline` for one invocation. Out: what disarms it; None if no pool wants it."""
    if not _Process.cancel_before:
        return None
    from .alarm import Alarm

    invocation.reserve = max(invocation.reserve, _Process.cancel_before)
    return Alarm(invocation, _Process.cancel_before).arm()


def end_invocation(invocation: Invocation, *, failed: bool) -> None:
    """Clean up after an invocation in every pool, and let observers count it. Never raises an Exception."""
    for known in _pools:
        pool = known()
        if pool is None:
            continue
        pool.end_invocation()
        if pool.observed:
            pool.tell(InvocationEnded(pool.config.name, failed, invocation.cold, invocation.request_id))


def _after_fork() -> None:
    for pool in pools():
        pool.after_fork()
