"""What to do with a cached connection at checkout. Pure: plain facts in, a decision out."""

from .endpoints.base import Role
from .events import Reason
from .slot import Slot


class Reuse:
    """Lend it as it is: no round trip."""

    __slots__ = ()


class Ping:
    """One bounded round trip decides."""

    __slots__ = ()


class Replace:
    """Close it and open another."""

    __slots__ = ("reason",)

    def __init__(self, reason: Reason) -> None:
        self.reason = reason


REUSE = Reuse()
PING = Ping()
_DEAD_WEIGHT = {reason: Replace(reason) for reason in Reason}


def replace(reason: Reason) -> Replace:
    """The decision to replace for `reason`."""
    return _DEAD_WEIGHT[reason]


def decide(
    slot: Slot,
    wall: float,
    mono: float,
    generation: int,
    pid: int,
    role: Role,
    quiet: bool,
    ping_after: float,
    max_idle: float,
) -> Reuse | Ping | Replace:
    """Decide on one cached connection.

    In: the slot, both clocks now (seconds), the pool's generation, this process's id, the role that is asked for,
    whether the free check found the socket `quiet`, and two options in seconds: `ping_after`, and `max_idle`, infinite
    where it is off. Out: REUSE, PING or Replace with its reason.
    """
    wall_idle = wall - slot.idle_wall
    mono_idle = mono - slot.idle_mono
    idle = wall_idle if wall_idle > mono_idle else mono_idle
    # The last use is never before the opening, so these two also catch every clock that went backwards.
    if slot.pid != pid:
        return _DEAD_WEIGHT[Reason.FORKED]
    if slot.generation != generation:
        return _DEAD_WEIGHT[Reason.GENERATION]
    if wall_idle < 0.0 or mono_idle < 0.0:
        return _DEAD_WEIGHT[Reason.CLOCK]
    if wall > slot.expires_wall or mono > slot.expires_mono:
        return _DEAD_WEIGHT[Reason.LIFETIME]
    if idle > max_idle:
        return _DEAD_WEIGHT[Reason.IDLE]
    if slot.role is not role:
        return _DEAD_WEIGHT[Reason.ROLE]
    if quiet and idle <= ping_after:
        return REUSE
    return PING
