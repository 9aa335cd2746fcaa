"""A pool's figures at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolStats:
    """Gauges (`size` to `waiting`) as of now, and counters since the pool was made."""

    size: int = 0
    """Connections of this process: idle, in use, or being opened."""
    idle: int = 0
    in_use: int = 0
    """Lent, or being opened for a borrower."""
    waiting: int = 0
    """Borrowers in the queue."""
    opened: int = 0
    reused: int = 0
    replaced: int = 0
    closed: int = 0
    pings: int = 0
    connect_errors: int = 0
    """Attempts to connect that failed, even if a later attempt succeeded."""
    timeouts: int = 0
    """Borrowers that gave up, in the queue or while connecting."""
    rolled_back: int = 0
    leaked: int = 0
    credentials_refreshed: int = 0
