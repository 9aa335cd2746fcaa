"""FastAPI behind Mangum on the genuine runtime: cold, warm, frozen and killed, restarted: no error, nothing extra."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lambda_pool.testing import MariaDbServer, PostgresServer
from tests.on_lambda.conftest import Start, start  # noqa: F401 - a fixture
from tests.support.speed import FULL

pytestmark = pytest.mark.runtime

INVOCATIONS = 200 if FULL else 40
ROUTES = ("threads", "loop", "stream", "background", "refused")

FUNCTION = """
import os
from typing import Annotated
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from mangum import Mangum
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.responses import StreamingResponse
import lambda_pool
from lambda_pool.asgi import Middleware
from lambda_pool.fastapi import session
from lambda_pool.sqlalchemy import create_engine

POOL = lambda_pool.Pool(os.environ["URL"], **eval(os.environ.get("OPTIONS", "{}")))
engine = create_engine(POOL)
Database = Annotated[Session, Depends(session(engine), scope="function")]
INSERT = text("insert into served values (:id)")
app = FastAPI()
app.add_middleware(Middleware, pool=POOL)

@app.get("/threads/{number}")
def threads(number: int, database: Database) -> int:
    database.execute(INSERT, {"id": number})
    return number

@app.get("/loop/{number}")
async def loop(number: int, database: Database) -> int:
    database.execute(INSERT, {"id": number})
    return number

@app.get("/stream/{number}")
def stream(number: int):
    def rows():
        with Session(engine) as own:
            own.execute(INSERT, {"id": number})
            own.commit()
            yield str(number)
    return StreamingResponse(rows())

@app.get("/background/{number}")
def background(number: int, tasks: BackgroundTasks) -> int:
    def task():
        with POOL.connection() as conn:
            conn.cursor().execute("insert into served values (%s)", [number])
    tasks.add_task(task)
    return number

@app.get("/refused/{number}")
def refused(number: int, database: Database) -> int:
    database.execute(INSERT, {"id": number})
    raise HTTPException(409)

@app.get("/stats/{number}")
def stats(number: int) -> list[int]:
    found = POOL.stats()
    return [found.opened, found.in_use, found.leaked, found.pings]

handler = POOL.handler(Mangum(app, lifespan="off"))
"""


@pytest.fixture(params=["postgresql", "mysql"])
def own_server(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A server of the test's own: it is restarted."""
    made: Any = PostgresServer() if request.param == "postgresql" else MariaDbServer()
    with made:
        made.execute("create table served (id int primary key)")
        yield made


def event(path: str) -> dict[str, Any]:
    """One of API Gateway's HTTP APIs."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "shop"},
        "requestContext": {"http": {"method": "GET", "path": path, "sourceIp": "127.0.0.1"}, "stage": "$default"},
        "isBase64Encoded": False,
    }


def kill_all(server: Any) -> None:
    if isinstance(server, PostgresServer):
        server.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        return
    for (backend,) in server.execute(
        "select id from information_schema.processlist where id <> connection_id() and command <> 'Daemon'"
        " and user <> 'system user'"
    ):
        server.execute(f"kill {backend}")


@pytest.mark.sampled(1 / 2, "10 s a case")
def test_a_long_day(start: Start, own_server: Any, any_python: str) -> None:  # noqa: F811
    runtime = start(own_server.url(), code=FUNCTION, python=any_python, options={"max_size": 2}, timeout=20)
    wanted: set[int] = set()

    def ask(number: int, route: str) -> None:
        answer = runtime.invoke(event(f"/{route}/{number}"))
        assert answer.error is None, answer.log
        assert answer.payload["statusCode"] == (409 if route == "refused" else 200), answer.log
        if route != "refused":
            assert answer.payload["body"] == str(number)
            wanted.add(number)

    for number in range(1, INVOCATIONS + 1):
        ask(number, ROUTES[number % len(ROUTES)])
    opened, in_use, leaked, pings = json.loads(runtime.invoke(event("/stats/0")).payload["body"])
    assert (opened, in_use, leaked, pings) == (1, 0, 0, 0)
    for number, route in enumerate(ROUTES, 1001):
        runtime.freeze()
        kill_all(own_server)
        runtime.thaw()
        ask(number, route)
    runtime.freeze()
    own_server.restart()
    runtime.thaw()
    ask(2000, "threads")
    assert {row[0] for row in own_server.execute("select id from served")} == wanted
    assert not runtime.shutdown().timed_out
