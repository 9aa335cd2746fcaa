"""From the thaw of an environment to its first good answer, after something happened to its connection in the freeze.

This runs on the genuine Lambda runtime. The function is invoked again until an answer is good, as Lambda's callers do.
The errors that it raised on the way are counted.
"""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lambda_pool.testing import FaultyProxy, LambdaRuntime, MariaDbServer, PostgresServer

from . import ways
from .environments import open_all
from .rounds import Figure, figure, ratio, shuffled

NAME = "recovery"
OURS = "lambda_pool"
RUN = "lambda_pool, run()"
CONNECTING = "connect each time"
TIMEOUT = 2
"""Seconds that the function may take. Lambda ends the environment of an invocation that takes longer."""
GIVE_UP = 4
"""After so many invocations, a way counts as one that does not recover."""
PING_AFTER, PING_TIMEOUT = 5.0, 1.0
"""lambda_pool's defaults."""
PASSWORD = "benchmark"
# Not a superuser, because MariaDB's read_only does not apply to one.
USER = {
    "postgresql": (f"create role app login password '{PASSWORD}'", "grant all on stock, orders to app"),
    "mysql": (f"create user app@'%' identified by '{PASSWORD}'", "grant select, insert, update on *.* to app@'%'"),
}
WAYS = {
    "postgresql": (
        OURS,
        RUN,
        CONNECTING,
        "bare global",
        "psycopg_pool",
        "psycopg_pool, check",
        "SQLAlchemy QueuePool, pre-ping",
        "DBUtils",
        "AWS wrapper",
    ),
    "mysql": (OURS, RUN, CONNECTING, "bare global", "bare global, ping", "SQLAlchemy QueuePool, pre-ping", "DBUtils"),
}


class Scene:
    """One engine's servers, the endpoint in front of them (it leads elsewhere after a failover), and the ways."""

    def __init__(self, server: Any, spare: Any, endpoint: FaultyProxy, runtimes: dict[str, LambdaRuntime]) -> None:
        self.server = server
        self.spare = spare
        self.endpoint = endpoint
        self.runtimes = runtimes

    # --- what may happen ----------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The server ends every session: an administrator, an idle timeout."""
        if self.server.scheme == "postgresql":
            self.server.execute(
                "select pg_terminate_backend(pid, 2000) from pg_stat_activity "
                "where backend_type = 'client backend' and pid <> pg_backend_pid()"
            )
        else:
            mine = "select id from information_schema.processlist where id <> connection_id() and command <> 'Daemon'"
            for (session,) in self.server.execute(mine):
                with contextlib.suppress(Exception):  # it may have gone by itself
                    self.server.execute(f"kill {session}")

    def reset(self) -> None:
        """A device in between forgets the connection and says so."""
        self.endpoint.reset()

    def black_hole(self) -> None:
        """A device in between forgets the connection and says nothing."""
        self.endpoint.black_hole(new=False)

    def restart(self) -> None:
        """The server is restarted."""
        self.server.restart()

    def fail_over(self) -> None:
        """The writer dies, and its name leads to another server."""
        self.endpoint.lead_to(self.spare.port)
        self.kill()

    def demote(self) -> None:
        """The writer's name leads to another server; the old one goes on as a reader and keeps its sessions."""
        self.endpoint.lead_to(self.spare.port)
        self._refuse_writes(True)

    def _refuse_writes(self, refuse: bool) -> None:
        if self.server.scheme == "postgresql":
            self.server.execute(f"alter system set default_transaction_read_only = {refuse}")
            self.server.execute("select pg_reload_conf()")
            time.sleep(0.1)
        else:
            self.server.execute(f"set global read_only = {refuse:d}")

    def calm(self) -> None:
        """Back to how it was, with no session left anywhere."""
        self.endpoint.lead_to(self.server.port)
        self._refuse_writes(False)

    # --- what is measured ---------------------------------------------------------------------------------------------

    def recover(self, name: str, event: dict[str, Any]) -> dict[str, float]:
        """Thaw one environment and invoke it until it answers well."""
        runtime = self.runtimes[name]
        errors, accepted = 0, self.endpoint.accepted
        began = time.perf_counter()
        runtime.thaw()
        answered = False
        while not answered and errors < GIVE_UP:
            try:
                answered = runtime.invoke(event).error is None
            except Exception:
                answered = False
            errors += not answered
        took = (time.perf_counter() - began) * 1e3
        connects = self.endpoint.accepted - accepted
        return {"ms": took, "errors": errors, "recovered": float(answered), "connects": connects}

    def act(self, what: Callable[[], None], event: dict[str, Any], frozen: float) -> dict[str, dict[str, float]]:
        """Freeze every environment for so many seconds, cause the fault, and watch each recover."""
        for name, runtime in self.runtimes.items():
            for attempt in range(3):
                if runtime.invoke(event).error is None:
                    break
                if attempt == 2:
                    raise RuntimeError(f"{name} does not work before anything happened to it")
        until = time.monotonic() + frozen
        for runtime in self.runtimes.values():
            runtime.freeze()
        what()
        time.sleep(max(until - time.monotonic(), 0.05))
        names = shuffled(list(self.runtimes))
        if what != self.black_hole:
            return {name: self.recover(name, event) for name in names}
        # Ways that need little time go one by one; those that may hang until Lambda's timeout go all at once.
        quick = [OURS, CONNECTING, RUN]
        found = {name: self.recover(name, event) for name in quick}
        names = [name for name in names if name not in quick]
        with ThreadPoolExecutor(len(names)) as pool:
            for name, outcome in zip(names, pool.map(lambda name: self.recover(name, event), names), strict=True):
                del outcome["connects"]  # nobody can tell to whom they belonged
                found[name] = outcome
        return found

    def warm_ms(self, event: dict[str, Any]) -> dict[str, float]:
        """A warm invocation of each way, the median of several."""
        return {
            name: figure([runtime.invoke(event).milliseconds for _ in range(15)])["median"]
            for name, runtime in self.runtimes.items()
        }


def over_connecting(acts: list[dict[str, Any]], way: str, *, waited: bool) -> Figure | None:
    """The time compared with the way that connects each time; without the ping, for ways that wait for its answer."""
    if waited and way not in {OURS, RUN}:
        return None
    ping = PING_TIMEOUT * 1e3 if waited else 0.0
    return ratio([act[way]["ms"] - ping for act in acts], [act[CONNECTING]["ms"] for act in acts])


def play(scene: Scene) -> dict[str, Any]:
    """Everything that happens to one engine."""
    write, read = {"work": "write"}, {"work": "one"}
    plan: list[tuple[str, Callable[[], None], dict[str, Any], float, int]] = [
        ("kill", scene.kill, read, 0.1, 8),
        ("reset", scene.reset, read, 0.1, 8),
        ("restart", scene.restart, read, 0.1, 3),
        ("black hole", scene.black_hole, read, PING_AFTER + 0.3, 2),
        ("black hole, just used", scene.black_hole, read, 0.1, 1),
        ("failover, sessions ended", scene.fail_over, write, 0.1, 3),
        ("failover, sessions kept", scene.demote, write, 0.1, 3),
    ]
    found: dict[str, Any] = {"warm_ms": scene.warm_ms(read), "events": {}}
    for name, what, event, frozen, times in plan:
        acts = []
        for _ in range(times):
            acts.append(scene.act(what, event, frozen))
            scene.calm()
            # A way that has not recovered starts afresh, with a connection to where the endpoint leads now.
            scene.kill()
            Scene(scene.spare, None, scene.endpoint, {}).kill()
        found["events"][name] = {
            way: {
                "ms": figure([act[way]["ms"] for act in acts]),
                "errors": max(act[way]["errors"] for act in acts),
                "recovered": min(act[way]["recovered"] for act in acts),
                "connects": max(act[way].get("connects", -1) for act in acts),
                "over_connecting": over_connecting(acts, way, waited=name == "black hole"),
                "of": times,
            }
            for way in scene.runtimes
        }
    return found


def trusted(servers: list[Any], folder: Path) -> str:
    """One file with every server's authority."""
    bundle = folder / "authorities.pem"
    bundle.write_text("".join(server.ca_path.read_text() for server in servers))
    return str(bundle)


def measure() -> dict[str, Any]:
    """Both engines, each with a second server to fail over to."""
    import tempfile

    found: dict[str, Any] = {
        "timeout": TIMEOUT,
        "give_up": GIVE_UP,
        "ping_after": PING_AFTER,
        "ping_timeout": PING_TIMEOUT,
    }
    for engine in ("postgresql", "mysql"):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            make = PostgresServer if engine == "postgresql" else MariaDbServer
            servers: list[Any] = [stack.enter_context(make()) for _ in range(2)]
            for server in servers:
                for statement in (*ways.SCHEMA[engine], *USER[engine]):
                    server.execute(statement)
            endpoint = stack.enter_context(FaultyProxy("127.0.0.1", servers[0].port))
            url = servers[0].url("app", PASSWORD, port=endpoint.port, sslrootcert=trusted(servers, folder))
            runtimes = open_all(stack, WAYS[engine], engine, url, timeout=TIMEOUT)
            scene = Scene(servers[0], servers[1], endpoint, runtimes)
            found[engine] = play(scene)
    return found
