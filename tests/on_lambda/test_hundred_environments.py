"""Environments end, a hundred in a full run: what they leave behind, with lambda_pool and with bare connections."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lambda_pool.testing import LambdaRuntime
from tests.on_lambda.conftest import Start
from tests.on_lambda.databases import Database, until
from tests.support.namespace import Namespace
from tests.support.speed import FULL

ENVIRONMENTS = 100 if FULL else 10
BATCH = 10
AT_ONCE = 2  # shut down at the same moment, so that each has its share of a small machine, as in Lambda
GOOD_BYE = 0.5  # seconds that Lambda leaves an environment after its signal
STAY = 2.0  # seconds, four times as long: what is still there after that counts as left behind

POOLED = """
import os
import lambda_pool

POSTGRES = lambda_pool.Pool(os.environ["POSTGRES"])
MYSQL = lambda_pool.Pool(os.environ["MYSQL"])

@POSTGRES.handler
def handler(event, context, conn):
    with MYSQL.connection() as other:
        return conn.info.backend_pid, other.thread_id()
"""

BARE = """
import os, ssl
from urllib.parse import parse_qs, urlsplit
import psycopg, pymysql

url = urlsplit(os.environ["MYSQL"])
postgres = psycopg.connect(os.environ["POSTGRES"], autocommit=True)
mysql = pymysql.connect(
    host=url.hostname, port=url.port, user=url.username, password=url.password, database=url.path[1:],
    ssl=ssl.create_default_context(cafile=parse_qs(url.query)["sslrootcert"][0]),
)

def handler(event, context):
    return postgres.info.backend_pid, mysql.thread_id()
"""

Session = tuple[str, int]
"""An engine and a backend."""


class Sessions:
    """One user's sessions on both servers."""

    def __init__(self, databases: dict[str, Database], name: str, *, inside: bool = False) -> None:
        self._databases = databases
        self._name = name
        for database in databases.values():
            database.user(name)
        self.env = {
            "POSTGRES": databases["postgresql"].url(name, inside=inside),
            "MYSQL": databases["mysql"].url(name, inside=inside),
        }

    def now(self) -> set[Session]:
        """The sessions that exist."""
        return {(engine, id) for engine, found in self._databases.items() for id in found.sessions(self._name)}

    def opened_by(self, runtimes: list[LambdaRuntime], threads: ThreadPoolExecutor) -> list[set[Session]]:
        """Invoke each environment once. Out: the sessions that each of them has opened."""
        answers = list(threads.map(LambdaRuntime.invoke, runtimes))
        assert [answer.error for answer in answers] == [None] * len(runtimes)
        return [set(zip(("postgresql", "mysql"), answer.payload, strict=True)) for answer in answers]

    def impolite(self) -> dict[str, int]:
        """How many clients have gone without a good-bye, so far."""
        return {engine: database.impolite(self._name) for engine, database in self._databases.items()}


def shut_down(runtime: LambdaRuntime) -> tuple[float, Any]:
    """The time of the signal, and how the environment ended."""
    return time.monotonic(), runtime.shutdown()


@pytest.mark.sampled(1 / 3, "12 s")
@pytest.mark.timeout(300)
def test_with_lambda_pool_they_say_good_bye(start: Start, databases: dict[str, Database], any_python: str) -> None:
    sessions = Sessions(databases, "hundred")
    impolite = sessions.impolite()
    took: list[float] = []
    for _ in range(ENVIRONMENTS // BATCH):
        runtimes = [start("", code=POOLED, env=sessions.env, python=any_python) for _ in range(BATCH)]
        with ThreadPoolExecutor(AT_ONCE) as threads:
            opened = sessions.opened_by(runtimes, threads)
            assert sessions.now() == set().union(*opened)
            ends = [threads.submit(shut_down, runtime) for runtime in runtimes]
            gone: dict[Session, float] = {}
            latest = time.monotonic() + 10
            while len(gone) < 2 * BATCH and time.monotonic() < latest:
                there = sessions.now()
                moment = time.monotonic()
                gone |= {session: moment for session in set().union(*opened) - there if session not in gone}
        assert sessions.now() == set()
        for end, own, runtime in zip(ends, opened, runtimes, strict=True):
            signalled, how = end.result()
            assert not how.timed_out
            assert "Traceback" not in runtime.log
            took += [gone[session] - signalled for session in own]
    print(f"\n{len(took)} of {2 * ENVIRONMENTS} backends gone, each within {max(took):.3f} s of its signal")
    assert len(took) == 2 * ENVIRONMENTS
    assert max(took) < GOOD_BYE
    time.sleep(0.2)  # MariaDB counts a little later than it forgets a session
    assert sessions.impolite() == impolite


@pytest.mark.sampled(1 / 3, "8 s")
@pytest.mark.timeout(300)
def test_bare_global_connections_stay(start: Start, databases: dict[str, Database], namespace: Namespace) -> None:
    sessions = Sessions(databases, "bare", inside=True)
    everything: set[Session] = set()
    try:
        for _ in range(ENVIRONMENTS // BATCH):
            # They get an address of their own, to which nothing is carried from now on.
            namespace.move()
            place: dict[str, Any] = {"address": namespace.address, "command_prefix": namespace.prefix}
            runtimes = [start("", code=BARE, env=sessions.env, **place) for _ in range(BATCH)]
            with ThreadPoolExecutor(BATCH) as threads:
                everything |= set().union(*sessions.opened_by(runtimes, threads))
                namespace.vanish()
                list(threads.map(LambdaRuntime.kill, runtimes))
        time.sleep(STAY)
        stay = sessions.now()
    finally:
        for engine, backend in sessions.now():
            databases[engine].kill(backend)
        namespace.move()
        namespace.heal()
    print(f"\n{len(stay)} of {2 * ENVIRONMENTS} backends are still there {STAY:.0f} s after the last signal")
    assert len(everything) == 2 * ENVIRONMENTS
    assert stay == everything


def test_a_killed_environment_is_counted_as_impolite(start: Start, databases: dict[str, Database]) -> None:
    """The first test's count would show a missing good-bye."""
    sessions = Sessions(databases, "killed")
    impolite = sessions.impolite()
    runtime = start("", code=POOLED, env=sessions.env)
    with ThreadPoolExecutor(1) as threads:
        sessions.opened_by([runtime], threads)
    assert runtime.pid is not None
    os.kill(runtime.pid, signal.SIGKILL)
    until(lambda: sessions.impolite() == {engine: count + 1 for engine, count in impolite.items()}, 5)
