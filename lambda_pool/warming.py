"""Connections that are opened ahead of the first invocation."""

import logging

from .core.entry import Entry, State
from .endpoints.base import Role
from .errors import LambdaPoolError
from .events import Reason
from .invocation import Deadline
from .pool import ConnectionPool
from .waiting import current_borrower

log: logging.Logger = logging.getLogger("lambda_pool")


def warm(pool: ConnectionPool, deadline: Deadline, *, strict: bool = False) -> None:
    """Open `min_size` connections (at least one), within the limit. See `Pool.warm`.

    An error that is not the pool's, such as one from the handler of the caller's own alarm, is always raised.
    """
    pool.warmed = True
    entries: list[Entry] = []
    wanted = max(1, pool.config.min_size)
    try:
        while True:
            with pool.lock:
                entry = pool.state.make_room(Role.WRITER, current_borrower(), wanted)
            if entry is None:
                return
            entries.append(entry)
            pool.open(entry, deadline)
    except LambdaPoolError as error:
        if strict:
            raise
        log.warning("pool %s: could not be warmed; the first checkout tries again: %s", pool.name, error)
    finally:
        for entry in entries:
            if entry.state is State.LENT:
                pool.give_back(entry)
            else:
                pool.discard(entry, Reason.DEAD)
