"""SnapStart, with the runtime's own hooks in its own process: a snapshot gets two clones, which share nothing."""

import signal
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing.processes import send, wait_gone
from tests.on_lambda.databases import Database, until
from tests.support.runtime_api import Runtime, RuntimeApi

# Hooks run in the order of their registration, so this one makes the clone before anything else happens.
FUNCTION = """
    import ctypes, os, time
    from pathlib import Path
    from snapshot_restore_py import register_after_restore, register_before_snapshot

    seen = {}

    @register_after_restore
    def clone():
        os.fork() if os.environ["CLONE"] == "fork" else ctypes.CDLL(None).fork()

    @register_before_snapshot
    def look():  # last in the reverse order: when all others have run
        seen.update(sockets=sockets(), size=POOL.stats().size, token=AUTH.token, opened=POOL.stats().opened)

    import lambda_pool
    from lambda_pool.api import core_of
    from lambda_pool.auth.base import Credentials
    from lambda_pool.secret import Secret

    def sockets():
        links = (os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
        return sorted(link for link in links if link.startswith("socket:"))

    class Auth:
        needs_tls = False
        token = None
        def credentials(self, endpoint, user, timeout):
            self.token = self.token or os.urandom(8).hex()
            return Credentials(user=user, password=Secret("test"))
        def rejected(self, credentials): ...
        def forget(self):
            self.token = None

    AUTH = Auth()
    POOL = lambda_pool.Pool(os.environ["URL"], auth=AUTH, **eval(os.environ["OPTIONS"]))
    if os.environ["WARM"]:
        POOL.warm()
    first = {"token": AUTH.token, "lifetimes": [entry.lifetime for entry in core_of(POOL).state.entries]}

    @POOL.handler
    def handler(event, context, conn):
        time.sleep(0.3)  # until the other clone has an event too
        with conn.cursor() as cursor:
            cursor.execute("select 1")
            rows = list(cursor.fetchall())
        entry, = core_of(POOL).state.entries
        return {
            "pid": os.getpid(),
            "backend": conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id(),
            "socket": os.readlink(f"/proc/self/fd/{conn.fileno() if hasattr(conn, 'info') else conn._sock.fileno()}"),
            "token": AUTH.token,
            "lifetime": entry.lifetime,
            "generation": entry.generation,
            "opened": POOL.stats().opened,
            "before": first,
            "snapshot": seen,
        }
"""


def environment(database: Database, *, clone: str, warm: bool) -> dict[str, str]:
    database.user("snapped")
    return {
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
        "URL": database.url("snapped"),
        "OPTIONS": "{}",
        "WARM": "1" if warm else "",
        "CLONE": clone,
    }


@pytest.mark.sampled(1, "2 s a case")
@pytest.mark.parametrize(("clone", "warm"), [("fork", True), ("silent", True), ("silent", False)])
def test_two_clones_share_nothing(tmp_path: Path, database: Database, any_python: str, clone: str, warm: bool) -> None:
    """`silent`: not even Python knows about the fork, just as no guest knows about its snapshot."""
    (tmp_path / "function.py").write_text(textwrap.dedent(FUNCTION))
    env = environment(database, clone=clone, warm=warm)
    impolite = database.impolite()
    with RuntimeApi() as api, Runtime(api, tmp_path, env=env, python=any_python) as runtime:
        api.snapshots.get(timeout=20)
        # It is closed before the snapshot is announced, but a busy server forgets a session a little later.
        until(lambda: not database.sessions("snapped"), 2)
        api.restored.set()
        if warm:
            until(lambda: len(database.sessions("snapped")) == 2, 10)
        one, other = api.invoke({}, {})
        again = api.invoke({}, {})
        snapshot: dict[str, Any] = one["snapshot"]
        assert (snapshot["size"], snapshot["token"], snapshot["opened"]) == (0, None, 1 if warm else 0)
        for what in ("pid", "backend", "socket", "token", "lifetime"):
            assert one[what] != other[what], what
        for found in (one, other):
            # A child of a fork counts from zero.
            assert found["opened"] == snapshot["opened"] + 1 or (clone == "fork" and found["opened"] == 1)
            assert found["generation"] > 0
            assert found["token"] not in {None, one["before"]["token"]}
            assert found["lifetime"] not in one["before"]["lifetimes"]
            assert found["socket"] not in snapshot["sockets"]
        assert {found["backend"] for found in again} == {one["backend"], other["backend"]}
        assert {found["opened"] for found in again} == {one["opened"], other["opened"]}
        assert api.requests.count("POST /2020-01-01/extension/register") == 1
        pids = runtime.pids
        send(pids, signal.SIGTERM)
        until(lambda: not database.sessions("snapped"), 2)
        assert wait_gone(pids, 5.0) == []
        assert "Traceback" not in runtime.log
    time.sleep(0.2)  # MariaDB counts a little later than it forgets a session
    assert database.impolite() == impolite


@pytest.mark.sampled(1, "a second a case")
def test_a_restore_without_a_database_still_answers(tmp_path: Path, database: Database) -> None:
    (tmp_path / "function.py").write_text(textwrap.dedent(FUNCTION.replace("os.fork() if", "None if")))
    env = environment(database, clone="fork", warm=True)
    env["OPTIONS"] = "{'timeout': 2.0}"
    with RuntimeApi() as api, Runtime(api, tmp_path, env=env) as runtime:
        api.snapshots.get(timeout=20)
        database.lock("snapped")
        api.restored.set()
        until(lambda: "could not be warmed" in runtime.log, 10)
        database.unlock("snapped")
        assert api.invoke({})[0]["opened"] == 2
