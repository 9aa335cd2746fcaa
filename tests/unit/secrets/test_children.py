"""What is started for tests and the demo shows no secret to `ps`, hands on no environment, and leaves no file."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import LambdaRuntime, MariaDbServer, PostgresServer
from lambda_pool.testing.processes import command_line, descendants
from tests.support.installed import install, installing
from tests.unit.secrets.canaries import Canaries, canary, search
from tests.unit.secrets.conftest import World
from tests.unit.secrets.outlet import Outlet


class Watch:
    """Looks at every child of this process, all the time."""

    def __init__(self) -> None:
        self.outlet = Outlet()
        self.seen: set[int] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._end.is_set():
            for pid in descendants(os.getpid()):
                # One that is born and not yet the program that it is to be is a copy of this process.
                if command_line(pid) not in ([], command_line(os.getpid())):
                    self.seen.add(pid)
                    self.outlet.process(pid)
            time.sleep(0.003)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join(10)


@pytest.mark.sampled(1 / 2, "4 s a case")
@pytest.mark.parametrize("kind", [PostgresServer, MariaDbServer])
def test_a_server(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password, inherited = "Pw" + canary("server").replace("é", "e"), canary("inherited")
    monkeypatch.setenv("LAMBDA_POOL_URL", f"postgresql://app:{inherited}@h/d")
    with installing(install), Watch() as watch:
        server = kind(password=password)
        server.start()
        try:
            assert server.execute("select 1") == [(1,)]
            folder = server._folder
            watch.outlet.write("log", server.log)
            for path in folder.rglob("*"):
                # What the server itself keeps is its own: it holds the password's verifier.
                if path.is_file() and "data" not in path.relative_to(folder).parts:
                    watch.outlet.write(f"file {path.name}", path.read_bytes())
        finally:
            server.close()
    assert len(watch.seen) > 2
    canaries = Canaries({"password": password, "inherited": inherited})
    assert search(canaries, watch.outlet.gathered) == []
    assert not folder.exists()


FUNCTION = """
import logging, os
logging.getLogger().setLevel(logging.DEBUG)
import lambda_pool

POOL = lambda_pool.Pool(**eval(os.environ.get("OPTIONS", "{}")))

@POOL.handler
def handler(event, context, conn):
    with conn.cursor() as cursor:
        cursor.execute("select 1")
    if event.get("lose"):
        conn.cursor().execute(event["lose"])
    if event.get("fail"):
        raise RuntimeError("half way")
    return {"pool": repr(POOL), "config": repr(POOL.config), "stats": str(POOL.stats()), "vars": str(vars(POOL))}
"""


@pytest.mark.sampled(1 / 2, "2 s a case")
@pytest.mark.runtime
@pytest.mark.parametrize("secret", ["password", "wrong"])
def test_on_the_genuine_runtime(
    world: World, secret: str, tmp_path: Path, lambda_rie: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.parse import quote

    inherited = canary("inherited")
    monkeypatch.setenv("SECRET_OF_THE_TESTS", inherited)
    facts = world.facts
    url = (
        f"{facts['scheme']}://canary:{quote(world.canaries[secret], safe='')}@localhost:{facts['port']}"
        f"/{facts['database']}?sslmode=verify-full&sslrootcert={quote(facts['ca'], safe='')}"
    )
    (tmp_path / "function.py").write_text(FUNCTION)
    lose = "select pg_terminate_backend(pg_backend_pid())" if world.server.scheme == "postgresql" else "kill 0"
    environment = {
        **{name: value for name, value in world.environment.items() if name.startswith("AWS_")},
        "LAMBDA_POOL_URL": url,
        "LAMBDA_POOL_TIMEOUT": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    outlet = Outlet()
    with LambdaRuntime("function.handler", code_dir=tmp_path, env=environment) as runtime:
        for event in ({}, {"fail": True}, {"lose": lose}, {}):
            answer = runtime.invoke(event)
            outlet.write("payload", f"{answer.payload} {answer.error}")
        assert runtime.pid is not None
        # The environment is what the user gave the function; the command line is ours.
        outlet.write("command", Path(f"/proc/{runtime.pid}/cmdline").read_bytes())
        inherits = inherited.encode() in Path(f"/proc/{runtime.pid}/environ").read_bytes()
        outlet.write("log", runtime.log)
    assert not inherits
    assert "half way" in runtime_text(outlet) or secret == "wrong"
    assert search(Canaries({**world.canaries, "inherited": inherited}), outlet.gathered) == []


def runtime_text(outlet: Outlet) -> str:
    return b"".join(data for _, data in outlet.gathered).decode("utf-8", "replace")
