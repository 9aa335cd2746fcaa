"""A server as Web Functions run one: uvicorn and gunicorn on loopback, many requests at once, on real databases."""

import http.client
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.testing import PostgresServer

from .conftest import Server, saved
from .running import AT_ONCE, Running

APPLICATION = """
import os, time
from typing import Annotated
from fastapi import Depends, FastAPI
from sqlalchemy import text
from sqlalchemy.orm import Session
import lambda_pool
from lambda_pool import asgi, fastapi, wsgi
from lambda_pool.sqlalchemy import create_engine
from flask import Flask

pool = lambda_pool.Pool(os.environ["URL"], max_size=8, timeout=20)
engine = create_engine(pool)
Database = Annotated[Session, Depends(fastapi.session(engine), scope="function")]
SLEEP = text("select pg_sleep(0.2)" if engine.dialect.name == "postgresql" else "select sleep(0.2) from dual")
INSERT = text("insert into served values (:id)")
api = FastAPI()

@api.post("/{number}")
def save(number: int, database: Database) -> int:
    database.execute(INSERT, {"id": number})
    database.execute(SLEEP)
    return database.execute(text("select id from served where id = :id"), {"id": number}).scalar_one()

@api.post("/long/{number}")
def save_slowly(number: int, database: Database) -> None:
    database.execute(INSERT, {"id": number})
    database.execute(text(SLEEP.text.replace("0.2", "40")))

@api.get("/stats")
def stats() -> list[int]:
    found = pool.stats()
    return [found.in_use, found.size, found.timeouts]

flask = Flask("shop")

@flask.post("/<int:number>")
def save_too(number):
    with Session(engine) as database:
        found = save(number, database)
        database.commit()
    return str(found)

@flask.post("/long/<int:number>")
def save_slowly_too(number):
    with Session(engine) as database:
        save_slowly(number, database)
    return ""

@flask.get("/stats")
def stats_too():
    return str(stats())

asgi_app = asgi.Middleware(api, pool, request_timeout=25)
wsgi_app = wsgi.Middleware(flask, pool, request_timeout=25)
"""


@pytest.fixture(params=["uvicorn", "uvloop", "gunicorn", "gevent", "uvicorn-worker"])
def running(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Running]:
    made = Running(request.param, APPLICATION, server.url(), tmp_path)
    yield made
    made.stop()


def kill_some(server: Server) -> None:
    """The server ends a few sessions that are in use."""
    if isinstance(server, PostgresServer):
        server.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid() limit 2"
        )
        return
    for (backend,) in server.execute("select id from information_schema.processlist where info like '%sleep%' limit 2"):
        with suppress(Exception):  # it has ended meanwhile
            server.execute(f"kill {backend}")


@pytest.mark.sampled(1, "a server's process, and seconds of requests")
def test_many_at_once(running: Running, server: Server) -> None:
    with ThreadPoolExecutor(AT_ONCE) as clients:
        answers = list(clients.map(lambda number: running.ask("POST", f"/{number}"), range(1, 2 * AT_ONCE + 1)))
    assert answers == [(200, str(number)) for number in range(1, 2 * AT_ONCE + 1)], running.log.read_text()[-3000:]
    assert saved(server) == [*range(1, 2 * AT_ONCE + 1)]
    in_use, size, timeouts = running.idle()
    assert (in_use, size <= 8, timeouts) == (0, True, 0)


@pytest.mark.sampled(1 / 2, "a server's process, and seconds of requests")
def test_kills_and_clients_that_hang_up(running: Running, server: Server) -> None:
    dice = random.Random(7)
    hasty = {number for number in range(1, AT_ONCE + 1) if dice.random() < 0.3}

    def ask(number: int) -> Any:
        try:
            return running.ask("POST", f"/{number}", timeout=0.1 if number in hasty else 60)
        except OSError:
            return None

    with ThreadPoolExecutor(AT_ONCE) as clients:
        found = clients.map(ask, range(1, AT_ONCE + 1))
        for _ in range(3):
            time.sleep(0.2)
            kill_some(server)
        answers = dict(zip(range(1, AT_ONCE + 1), found, strict=True))
    assert running.idle()[0] == 0
    kept = saved(server)
    for number, answer in answers.items():
        if answer is not None:
            assert answer[0] in {200, 500, 503}
            assert answer[0] != 200 or (answer[1] == str(number) and number in kept)
            assert answer[0] == 200 or number not in kept
    assert running.ask("POST", "/1000")[0] == 200


@pytest.mark.sampled(1 / 2, "a server's process, and seconds of requests")
def test_sigterm_amid_requests(running: Running, server: Server) -> None:
    def ask(number: int) -> Any:
        try:
            return running.ask("POST", f"/{number}")
        except (OSError, http.client.HTTPException):
            return None

    with ThreadPoolExecutor(24) as clients:
        found = clients.map(ask, range(1, 25))
        time.sleep(0.3)
        running.process.send_signal(signal.SIGTERM)
        answers = dict(zip(range(1, 25), found, strict=True))
    running.process.wait(60)
    kept = saved(server)
    assert [number for number, answer in answers.items() if answer and answer[0] == 200 and number not in kept] == []


@pytest.mark.sampled(1 / 2, "a server's process, and seconds of requests")
def test_sigterm_ends_what_does_not_end(running: Running, server: Server) -> None:
    """A request that lasts too long is rolled back, and no session is left."""

    def ask() -> Any:
        try:
            return running.ask("POST", "/long/1")[0]
        except (OSError, http.client.HTTPException):
            return None

    before = sessions(server)  # other tests' pools have some, too
    with ThreadPoolExecutor(1) as clients:
        found = clients.submit(ask)
        time.sleep(1)
        running.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + 15
        while (left := sessions(server) - before) and time.monotonic() < until:
            time.sleep(0.05)
        assert left == set()
        assert found.result() in {None, 500, 503}
    assert saved(server) == []


def sessions(server: Server) -> set[int]:
    """The numbers of all sessions other than this one."""
    if isinstance(server, PostgresServer):
        found = "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
    else:
        found = (
            "select id from information_schema.processlist where id <> connection_id() and command <> 'Daemon'"
            " and user <> 'system user'"
        )
    return {int(number) for (number,) in server.execute(found)}


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("patched", ["first", "late", "late, without threads"])
def test_gevent_has_to_patch_first(patched: str, tmp_path: Path) -> None:
    """As under gunicorn's `preload_app`, which imports an application before gevent patches.

    Not if it leaves threads as they are, as it does for grequests, which patches when it is imported.
    """
    arguments = "thread=False, select=False" if "without" in patched else ""
    patch = f"from gevent import monkey; monkey.patch_all({arguments})"
    use = "from lambda_pool.testing import FakeDriver; pool = FakeDriver().pool()"
    borrow = "pool.connection().__enter__(); print('lent')"
    (tmp_path / "script.py").write_text("\n".join([*([patch, use] if patched == "first" else [use, patch]), borrow]))
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout == "lent\n") is (patched != "late")
    assert ("ConfigError: gevent patched" in done.stderr) is (patched == "late")
