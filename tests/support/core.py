"""The parts behind a pool, for tests of its inside."""

from time import monotonic
from typing import Any

from lambda_pool import LambdaPoolError, Pool
from lambda_pool.api import core_of
from lambda_pool.core.entry import Entry
from lambda_pool.endpoints.base import Endpoint, Role
from lambda_pool.invocation import Deadline
from lambda_pool.reclaim import cancel_running as cancel
from lambda_pool.reclaim import end_invocation as end

_WRITER, _READER = Endpoint("writer", 1), Endpoint("reader", 1)


class Both:
    """A source of a writer and a reader, so that connections have roles."""

    has_reader = True

    def __init__(self, writer: Endpoint = _WRITER, reader: Endpoint = _READER) -> None:
        self._of = {Role.WRITER: writer, Role.READER: reader}

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        return self._of[role]

    def failed(self, endpoint: Endpoint) -> None: ...

    def forget(self) -> None: ...


def entries(pool: Pool) -> list[Entry]:
    """All entries."""
    return core_of(pool).state.entries


def idle(pool: Pool) -> list[Entry]:
    """The entries that nobody has borrowed."""
    return core_of(pool).state.idle()


def queue(pool: Pool) -> Any:
    """The waiting borrowers."""
    return core_of(pool).state.queue


def acquire(pool: Pool, role: Role = Role.WRITER) -> Entry:
    """Borrow one."""
    return core_of(pool).acquire(role, Deadline(pool.config.timeout))


def release(pool: Pool, entry: Entry, error: BaseException | None = None) -> None:
    """Give one back."""
    core_of(pool).release(entry, error)


def end_invocation(pool: Pool, *, alone: bool = True) -> LambdaPoolError | None:
    """End an invocation that began before everything else."""
    return end(core_of(pool), 0.0, alone=alone)


def take_away(pool: Pool) -> list[Entry]:
    """What the end of an invocation does first: take out the lent connections, and free their room."""
    core = core_of(pool)
    with core.lock:
        taken = core.state.reclaim(-1, alone=True, since=0.0, cannot_go_on=lambda _: False)
        for entry in taken:
            core.state.free(entry)
    return taken


def cancel_running(pool: Pool, within: float) -> None:
    """Do what the alarm before the deadline does."""
    cancel(core_of(pool), monotonic() + within)
