"""What Lambda does to a process, told to every pool in it: the end of an invocation, and forks."""

import os
from weakref import ReferenceType, ref

from .events import InvocationEnded
from .invocation import Invocation
from .pool import ConnectionPool

_pools: list[ReferenceType[ConnectionPool]] = []


class _Process:
    """What is true of this process as a whole."""

    cold = True
    hooked = False


def register(pool: ConnectionPool) -> None:
    """Take a new pool into care. Pools that are no longer referenced drop out by themselves."""
    _pools[:] = [known for known in _pools if known() is not None]
    _pools.append(ref(pool))
    if not _Process.hooked:
        _Process.hooked = True
        os.register_at_fork(after_in_child=_after_fork)


def take_cold() -> bool:
    """True for the first invocation of this environment, False ever after."""
    cold, _Process.cold = _Process.cold, False
    return cold


def end_invocation(invocation: Invocation, *, failed: bool) -> None:
    """Clean up after an invocation in every pool, and let observers count it. Never raises an Exception."""
    for known in _pools:
        pool = known()
        if pool is None:
            continue
        pool.end_invocation()
        if pool.observed:
            pool.tell(InvocationEnded(pool.name, failed, invocation.cold, invocation.request_id))


def _after_fork() -> None:
    for known in _pools:
        pool = known()
        if pool is not None:
            pool.after_fork()
