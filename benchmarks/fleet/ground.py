"""One run on servers of its own: starts them, runs the router, watches, and sums up."""

import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self

from lambda_pool.testing import MariaDbServer, PostgresServer

from .environment import Place
from .spec import Done, Outcome, Spec

GIVEN = "FLEET_MYSQL"
"""host:port of a running MySQL server that has a user `app` with that password, and room for 30 connections."""


class GivenServer:
    """Such a server."""

    def __init__(self) -> None:
        host, _, port = os.environ[GIVEN].partition(":")
        if host != "127.0.0.1":
            raise ValueError(f"{GIVEN} must be on this machine, as 127.0.0.1:3306")
        self.port = int(port)

    def __enter__(self) -> Self:
        self.execute("flush status")
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        """Run one statement."""
        import pymysql

        login: dict[str, Any] = {"user": "app", "password": "app", "autocommit": True}
        with pymysql.connect(host="127.0.0.1", port=self.port, **login) as conn, conn.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())


Server = PostgresServer | MariaDbServer | GivenServer
_SAMPLE = 0.25
_REFUSALS = ("too many clients", "remaining connection slots", "too many connections for role")


def run(spec: Spec) -> Outcome:
    """Run it, and return what it showed."""
    with ExitStack() as stack:
        server = _server(spec)
        stack.enter_context(server)
        _make_user(server)
        port = server.port
        if spec.pooled:
            assert isinstance(server, PostgresServer)
            port = stack.enter_context(_bouncer(server, spec)).port
        place = Place(spec, server.port)
        others = [stack.enter_context(closing(place.connect())) for _ in range(spec.others)]
        for other in others:
            other.commit()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-")))
        before = _logins(server)
        looking = Looking(server)
        stack.callback(looking.stop)
        out = folder / "out.json"
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.fleet.router", spec.text(), str(port), str(out)])
        restarted = _wait(process, server, spec)
        looking.stop()
        data = json.loads(out.read_text())
        outcome = _sum_up(spec, data, restarted)
        outcome.most_sessions = looking.most
        after = _logins(server)
        outcome.logins, outcome.refused = after[0] - before[0], after[1] - before[1]
        if isinstance(server, PostgresServer):
            outcome.ended_by_timer = server.error_log.count("due to idle-session timeout")
        outcome.others_alive = sum(_lives(other) for other in others)
    return outcome


def _server(spec: Spec) -> Server:
    if spec.given:
        return GivenServer()
    if spec.engine == "postgresql":
        return PostgresServer(
            tls=False,
            max_connections=spec.max_connections,
            hba=["host all app 127.0.0.1/32 trust"],
            extra_config=["log_connections = on", "autovacuum = off", "fsync = off"],
        )
    return MariaDbServer(max_connections=spec.max_connections)


def _make_user(server: Server) -> None:
    if isinstance(server, PostgresServer):
        server.execute("create role app login")
    elif isinstance(server, MariaDbServer):
        server.execute("create user app@'%' identified by 'app'")
        server.execute("grant all on app.* to app@'%'")


def _bouncer(server: PostgresServer, spec: Spec) -> Any:
    from tests.support.pgbouncer import PgBouncer

    settings: dict[str, Any] = {"default_pool_size": spec.pool_size, "max_client_conn": spec.client_conn}
    return PgBouncer(server, {"app": "app"}, auth_type="trust", server_tls_sslmode="disable", **settings)


def _lives(conn: Any) -> bool:
    try:
        with conn.cursor() as cursor:
            cursor.execute("select 1")
    except Exception:
        return False
    return True


def _logins(server: Server) -> tuple[int, int]:
    """How many logins the server received, and how many of them it refused for too many connections."""
    if isinstance(server, PostgresServer):
        log = server.error_log
        # The first kind of refusal comes before the login is authorized, the others after it.
        came = log.count("connection authorized: user=app") + log.count(_REFUSALS[0])
        return came, sum(log.count(text) for text in _REFUSALS)
    rows = dict(
        server.execute("show global status where variable_name in ('Connections', 'Connection_errors_max_connections')")
    )
    return int(rows["Connections"]), int(rows["Connection_errors_max_connections"])


class Looking:
    """Counts the sessions of the fleet, again and again; MySQL does this by itself."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        if isinstance(server, PostgresServer):
            self._thread.start()

    @property
    def most(self) -> int:
        """Sessions at once."""
        if isinstance(self._server, PostgresServer):
            return self._most
        return int(self._server.execute("show global status like 'Max_used_connections'")[0][1])

    def _look(self) -> None:
        import psycopg

        assert isinstance(self._server, PostgresServer)
        while not self._end.is_set():
            # Again after a restart. The connections reserved for administrators are not available to the fleet.
            with suppress(psycopg.Error), psycopg.connect(self._server.url(), autocommit=True) as conn:
                while not self._end.wait(_SAMPLE):
                    row = conn.execute("select count(*) from pg_stat_activity where usename = 'app'").fetchone()
                    self._most = max(self._most, row[0] if row else 0)
            self._end.wait(_SAMPLE)

    def stop(self) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(10)


def _wait(process: "subprocess.Popen[bytes]", server: Server, spec: Spec) -> tuple[float, float]:
    """Wait until the router has ended. Out: when the server was stopped, and when ready again (monotonic; 0: never)."""
    end = monotonic() + spec.seconds + spec.grace + 60
    stopped = ready = 0.0
    try:
        if spec.restart_at:
            assert not isinstance(server, GivenServer)
            sleep(spec.restart_at)
            stopped = monotonic()
            server.stop("fast")
            sleep(max(stopped + spec.outage - monotonic(), 0))
            server.start()
            ready = monotonic()
        if process.wait(max(end - monotonic(), 1)) != 0:
            raise RuntimeError("the router failed")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return stopped, ready


def _sum_up(spec: Spec, data: dict[str, Any], restarted: tuple[float, float]) -> Outcome:
    done = [Done(**each) for each in data["done"]]
    failed = [each for each in done if each.error]
    good = [each for each in done if not each.error]
    counts: collections.Counter[str] = collections.Counter()
    for each in done:
        counts.update(each.counts)
    checkouts = sorted(each.checkout for each in good) or [0.0]
    outcome = Outcome(
        spec=spec,
        environments=data["environments"],
        invocations=len(done),
        failed=len(failed),
        unfinished=data["unfinished"],
        errors=dict(collections.Counter(each.error for each in failed).most_common(6)),
        counts=dict(counts),
        checkout_p50=statistics.median(checkouts),
        checkout_p99=checkouts[min(int(len(checkouts) * 0.99), len(checkouts) - 1)],
        checkout_max=checkouts[-1],
        most_at_work=data["most"],
        wall=data["wall"],
    )
    stopped, ready = (moment - data["began"] for moment in restarted)
    if restarted[1]:
        outcome.failed_at_work = sum(each.began <= stopped for each in failed)
        outcome.failed_after = sum(each.began > ready for each in failed)
        outcome.first_success = min((each.ended for each in good if each.ended > ready), default=1e9) - ready
        outcome.attempts = sum(
            number
            for each in done
            if each.began < ready and each.ended > stopped
            for name, number in each.counts.items()
            if name.startswith("ConnectFailed")
        )
    return outcome
