"""The description of one run."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from lambda_pool.cli.plan.simulation import Traffic

LIMIT_OF_DATABASE = 100


@dataclass(frozen=True)
class Spec(Traffic):
    """One run: the invocations that arrive, as in the simulation, and what they meet. Times are seconds."""

    way: str = "lambda_pool"
    engine: str = "postgresql"
    given: bool = False
    """On a MySQL server that is already running: see `ground.GIVEN`."""
    pooled: bool = False
    """Through a PgBouncer with `pool_size` server connections, and room for `client_conn` clients."""
    pool_size: int = 20
    client_conn: int = 2000
    grace: float = 90.0
    """Extra time for a slow machine: the run ends when all is done."""
    max_connections: int = LIMIT_OF_DATABASE
    time_out: float = 10.0
    """The timeout of the function."""
    others: int = 0
    """Sessions of another application, which stay open and are tried at the end."""
    restart_at: float = 0.0
    outage: float = 2.0
    sabotage: str = ""
    """`rule`, `backoff` or `timer`: run without that part of the product."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the pool."""

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> Self:
        """From JSON."""
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Done:
    """One invocation: when it arrived, began and ended (seconds since the run began), and how."""

    arrived: float
    began: float
    ended: float
    error: str
    checkout: float
    counts: dict[str, int]


@dataclass
class Outcome:
    """The outcome of one run."""

    spec: Spec
    environments: int = 0
    invocations: int = 0
    failed: int = 0
    unfinished: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Events of all pools: Opened, Crowded, closed (crowded), …"""
    checkout_p50: float = 0.0
    checkout_p99: float = 0.0
    checkout_max: float = 0.0
    logins: int = 0
    """Logins that reached the server, including those that it refused for too many connections."""
    refused: int = 0
    ended_by_timer: int = 0
    most_sessions: int = 0
    most_at_work: int = 0
    others_alive: int = 0
    wall: float = 0.0
    failed_at_work: int = 0
    """After a restart: failed invocations that had begun before it."""
    failed_after: int = 0
    """After a restart: failed invocations that began once the server was ready again."""
    first_success: float = 0.0
    """After a restart: seconds from when the server was ready to the end of the first successful invocation."""
    attempts: int = 0
    """After a restart: failed attempts to connect, of invocations that began before the server was ready again."""

    @property
    def refused_part(self) -> float:
        """Of all logins."""
        return self.refused / max(self.logins, 1)

    def in_short(self) -> str:
        """One line."""
        return (
            f"{self.environments} environments, {self.invocations} invocations, {self.failed} failed"
            f"{f' {self.errors}' if self.errors else ''}, checkout p50 {self.checkout_p50 * 1000:.1f} ms, "
            f"p99 {self.checkout_p99 * 1000:.0f} ms, max {self.checkout_max * 1000:.0f} ms, logins {self.logins}, "
            f"refused {self.refused} ({self.refused_part:.1%}), at most {self.most_sessions} sessions and "
            f"{self.most_at_work} at work, unfinished {self.unfinished}, {self.wall:.0f} s"
        )
