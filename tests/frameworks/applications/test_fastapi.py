"""`lambda_pool.fastapi.session`: one session for each request, committed before its answer."""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, WebSocket
from fastapi.exceptions import DependencyScopeError
from sqlalchemy import text
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.background import BackgroundTasks
from starlette.responses import JSONResponse, Response, StreamingResponse

import lambda_pool
from lambda_pool import fastapi
from lambda_pool.asgi import Middleware
from lambda_pool.sqlalchemy import create_async_engine, create_engine
from tests.support.web import asgi, ask

from .conftest import Server, saved

INSERT = text("insert into served values (:id)")


class Base(DeclarativeBase):
    pass


class Served(Base):
    __tablename__ = "served"
    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def engine(pool: lambda_pool.Pool) -> Iterator[Engine]:
    yield create_engine(pool)
    gc.collect()  # engines refer to themselves


def application(engine: Engine) -> FastAPI:
    """Routes of every kind."""
    app = FastAPI()
    database = Annotated[Session, Depends(fastapi.session(engine), scope="function")]

    def same(session: database) -> Session:
        return session

    @app.post("/threads/{number}")
    def in_a_thread(number: int, session: database, again: Annotated[Session, Depends(same)]) -> bool:
        session.execute(INSERT, {"id": number})
        return session is again

    @app.post("/loop/{number}")
    async def on_the_loop(number: int, session: database) -> int:
        session.execute(INSERT, {"id": number})
        return number

    @app.post("/refused/{number}")
    def refused(number: int, session: database) -> None:
        session.execute(INSERT, {"id": number})
        raise HTTPException(409)

    @app.post("/raised/{number}")
    def raised(number: int, session: database) -> None:
        session.execute(INSERT, {"id": number})
        raise ValueError("mine")

    @app.post("/answered/{number}")
    def answered(number: int, session: database) -> Response:
        session.execute(INSERT, {"id": number})
        return JSONResponse({}, 409)

    @app.post("/swallowed/{number}")
    def swallowed(number: int, session: database) -> None:
        for _ in range(2):
            try:
                session.execute(INSERT, {"id": number})
            except Exception:
                return

    @app.post("/objects/{number}")
    def objects(number: int, session: database) -> dict[str, int]:
        found = Served(id=number)
        session.add(found)
        session.flush()
        return {"id": found.id}

    @app.post("/later/{number}")
    def later(number: int, session: database, background: BackgroundTasks) -> None:
        def task() -> None:
            with Session(engine) as own:
                own.execute(INSERT, {"id": number})
                own.commit()

        background.add_task(task)

    @app.post("/stream/{number}")
    def stream(number: int) -> Response:
        def rows() -> Iterator[str]:
            with Session(engine) as own:
                for (row,) in own.execute(text("select id from served order by id")):
                    yield f"{row}\n"

        return StreamingResponse(rows())

    return app


@pytest.mark.sampled(6, "many cases")
@pytest.mark.parametrize(
    ("route", "status", "rows"),
    [
        ("threads", 200, [1]),
        ("loop", 200, [1]),
        ("objects", 200, [1]),
        ("later", 200, [1]),
        ("answered", 409, [1]),  # the route has ended well
        ("refused", 409, []),
        ("raised", 500, []),
    ],
)
@pytest.mark.parametrize("middleware", [True, False])
def test_what_a_route_saves(
    engine: Engine, pool: lambda_pool.Pool, server: Server, route: str, status: int, rows: list[int], middleware: bool
) -> None:
    app: Any = application(engine)
    answer = ask(Middleware(app, pool) if middleware else app, f"/{route}/1", method="POST")
    assert answer.status == status, answer
    assert saved(server) == rows
    assert pool.stats().in_use == 0
    if route == "threads":
        assert answer.body == b"true"  # one session for each request


@pytest.mark.sampled(3, "half a second a case")
@pytest.mark.parametrize(("route", "status", "rows"), [("save", 200, [1]), ("refused", 409, []), ("raised", 500, [])])
def test_an_async_engine(server: Server, route: str, status: int, rows: list[int]) -> None:
    pool = lambda_pool.AsyncPool(server.url(), max_size=2, timeout=10)
    engine = create_async_engine(pool)
    app = FastAPI()
    database = Annotated[AsyncSession, Depends(fastapi.session(engine), scope="function")]

    @app.post("/{kind}/{number}")
    async def save(kind: str, number: int, session: database) -> int:
        await session.execute(INSERT, {"id": number})
        if kind == "refused":
            raise HTTPException(409)
        if kind == "raised":
            raise ValueError("mine")
        return number

    async def main() -> None:
        answer = await asgi(Middleware(app, pool), f"/{route}/1", method="POST")
        assert answer.status == status, answer
        assert pool.stats().in_use == 0
        await pool.close()

    asyncio.run(main())
    assert saved(server) == rows
    gc.collect()


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("awaited", [False, True])
def test_without_autobegin(engine: Engine, server: Server, awaited: bool) -> None:
    """A route whose own block has committed is answered as saved."""
    pool = lambda_pool.AsyncPool(server.url(), max_size=2, timeout=10)
    app = FastAPI()
    options: dict[str, Any] = {"autobegin": False}

    @app.post("/plain")
    def plain(session: Annotated[Session, Depends(fastapi.session(engine, **options), scope="function")]) -> None:
        with session.begin():
            session.execute(INSERT, {"id": 1})

    @app.post("/awaited")
    async def on_the_loop(
        session: Annotated[
            AsyncSession, Depends(fastapi.session(create_async_engine(pool), **options), scope="function")
        ],
    ) -> None:
        async with session.begin():
            await session.execute(INSERT, {"id": 1})

    async def main() -> None:
        answer = await asgi(app, "/awaited" if awaited else "/plain", method="POST")
        assert answer.status == 200, answer
        await pool.close()

    asyncio.run(main())
    assert saved(server) == [1]
    gc.collect()


def test_what_a_task_leaves_of_an_async_pool_is_taken_back(server: Server) -> None:
    pool = lambda_pool.AsyncPool(server.url(), max_size=1, timeout=10)
    left: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        left.append(pool.connection())
        conn = await left[-1].__aenter__()
        cursor = conn.cursor()
        await cursor.execute("insert into served values (1)")
        await JSONResponse({})(scope, receive, send)

    async def main() -> None:
        answer = await asgi(Middleware(app, pool))
        assert answer.status == 0
        assert isinstance(answer.error, lambda_pool.NotCommitted)
        assert pool.stats().in_use == 0
        await pool.close()

    asyncio.run(main())
    assert saved(server) == []


def test_a_stream(engine: Engine, pool: lambda_pool.Pool, server: Server) -> None:
    server.execute("insert into served values (1), (2)")
    answer = ask(Middleware(application(engine), pool), "/stream/1", method="POST")
    assert (answer.status, answer.body) == (200, b"1\n2\n")
    assert pool.stats().in_use == 0


@pytest.mark.parametrize("kind", ["task", "stream"])
@pytest.mark.parametrize("awaited", [False, True])
def test_a_session_that_is_used_after_its_route(server: Server, kind: str, awaited: bool) -> None:
    """It is committed and closed by then. It would begin a transaction that nobody ends."""
    app, told = FastAPI(), []

    def after(session: Any, number: int) -> Iterator[str]:
        try:
            session.execute(INSERT, {"id": number})
        except InvalidRequestError as error:
            told.append(str(error))
        yield "done"

    async def after_awaited(session: Any, number: int) -> AsyncIterator[str]:
        try:
            await session.execute(INSERT, {"id": number})
        except InvalidRequestError as error:
            told.append(str(error))
        yield "done"

    async def main() -> None:
        pool = lambda_pool.AsyncPool(server.url(), observers=()) if awaited else None
        engine: Any = create_async_engine(pool) if pool else create_engine(lambda_pool.Pool(server.url(), observers=()))

        @app.post("/{number}")
        async def route(
            number: int,
            session: Annotated[Any, Depends(fastapi.session(engine), scope="function")],
            background: BackgroundTasks,
        ) -> Response:
            if awaited:
                await session.execute(INSERT, {"id": number})
                await session.close()
                await session.execute(INSERT, {"id": number})
            else:
                session.execute(INSERT, {"id": number})
                session.close()
                session.execute(INSERT, {"id": number})
            rows: Any = after_awaited(session, number + 1) if awaited else after(session, number + 1)
            if kind == "stream":
                return StreamingResponse(rows)

            async def task() -> None:
                if awaited:
                    await anext(rows)
                else:
                    next(rows)

            background.add_task(task)
            return Response(background=background)

        answer = await asgi(app, "/1", method="POST")
        assert (answer.status, answer.error) == (200, None)
        if pool:
            await pool.close()

    asyncio.run(main())
    assert saved(server) == [1]
    assert ["permanently closed" in text for text in told] == [True]


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_the_answer_waits_for_commit(engine: Engine, pool: lambda_pool.Pool, server: Server) -> None:
    """A constraint that only COMMIT checks. MariaDB has none."""
    server.execute("alter table served add constraint one unique (id) deferrable initially deferred")
    server.execute("alter table served drop constraint served_pkey")
    server.execute("insert into served values (1)")
    for app in (application(engine), Middleware(application(engine), pool)):
        answer = ask(app, "/threads/1", method="POST")
        assert answer.status == 500
        assert "duplicate key" in str(answer.error)
    assert saved(server) == [1]


def test_a_session_without_a_statement_borrows_nothing(engine: Engine, pool: lambda_pool.Pool) -> None:
    app = FastAPI()

    @app.get("/")
    def route(session: Annotated[Session, Depends(fastapi.session(engine), scope="function")]) -> None: ...

    assert ask(app).status == 200
    assert pool.stats().opened == 0


@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_an_error_that_was_swallowed_is_not_reported_as_success(
    engine: Engine, pool: lambda_pool.Pool, server: Server
) -> None:
    assert ask(Middleware(application(engine), pool), "/swallowed/1", method="POST").status in {0, 500}
    assert saved(server) == []


@pytest.mark.parametrize("scope", [None, "request"])
def test_a_commit_after_the_answer_is_refused(engine: Engine, scope: Any) -> None:
    app = FastAPI()
    with pytest.raises(DependencyScopeError, match=r"write Depends\(session\(engine\), scope='function'\)"):

        @app.get("/")
        def route(session: Annotated[Session, Depends(fastapi.session(engine), scope=scope)]) -> None: ...


def test_one_dependency_for_an_engine_and_its_options(engine: Engine) -> None:
    assert fastapi.session(engine) is fastapi.session(engine)
    assert fastapi.session(engine) is not fastapi.session(engine, expire_on_commit=False)
    assert fastapi.session(engine, info={"a": 1}) is not fastapi.session(engine)


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize(("uses", "status", "rows"), [("one", 200, [1]), ("both", 503, [])])
def test_two_sessions_of_one_request_on_the_only_connection(
    server: Server, uses: str, status: int, rows: list[int]
) -> None:
    """The second one does not wait for the end of the first, which comes after the route."""
    pool = lambda_pool.Pool(server.url(), timeout=30)
    engine = create_engine(pool)
    app = FastAPI()

    @app.get("/")
    async def route(
        one: Annotated[Session, Depends(fastapi.session(engine), scope="function")],
        other: Annotated[Session, Depends(fastapi.session(engine, expire_on_commit=False), scope="function")],
    ) -> None:
        other.execute(INSERT, {"id": 1})
        if uses == "both":
            one.execute(INSERT, {"id": 2})

    wrapped = Middleware(app, pool)
    began = time.monotonic()
    for _ in range(2):
        server.execute("delete from served")
        assert ask(wrapped).status == status
        assert saved(server) == rows
    assert time.monotonic() - began < 10
    assert pool.stats().in_use == 0
    pool.close()
    del engine
    gc.collect()


def test_sessions_of_two_pools_in_either_order(server: Server) -> None:
    """Whoever has a session of one pool does not wait for those that have one of the other and wait for the first."""
    pools = [lambda_pool.Pool(server.url(), timeout=5) for _ in range(2)]
    engines = [create_engine(pool) for pool in pools]
    one = Annotated[Session, Depends(fastapi.session(engines[0]), scope="function")]
    other = Annotated[Session, Depends(fastapi.session(engines[1]), scope="function")]
    app = FastAPI()

    def save(number: int, first: Session, second: Session) -> None:
        first.execute(INSERT, {"id": number})
        first.commit()
        second.execute(INSERT, {"id": number + 100})

    @app.get("/there/{number}")
    def there(number: int, first: one, second: other) -> None:
        save(number, first, second)

    @app.get("/back/{number}")
    def back(number: int, second: other, first: one) -> None:
        save(number, first, second)

    async def main() -> list[int]:
        paths = [f"/{'back' if number % 2 else 'there'}/{number}" for number in range(8)]
        return [answer.status for answer in await asyncio.gather(*(asgi(wrapped, path) for path in paths))]

    wrapped = Middleware(app, pools[0])
    assert asyncio.run(main()) == [200] * 8
    assert saved(server) == [*range(8), *range(100, 108)]
    for pool in pools:
        assert pool.stats().in_use == 0
        pool.close()
    del engines
    gc.collect()


@pytest.mark.parametrize("autocommits", [True, False])
def test_a_websocket_that_borrows_nothing_keeps_no_request_out(server: Server, autocommits: bool) -> None:
    """It has its session until it is closed, but a connection only until it commits."""
    pool = lambda_pool.Pool(server.url(), timeout=5)
    engine = create_engine(pool)
    database = Annotated[Session, Depends(fastapi.session(engine), scope="function")]
    app = FastAPI()
    answers: list[int] = []

    @app.websocket("/open")
    async def route(websocket: WebSocket, session: database) -> None:
        session.execute(INSERT, {"id": 1})
        session.commit()
        answers.append((await asyncio.create_task(asgi(app, "/asked"))).status)
        session.execute(INSERT, {"id": 3})
        if autocommits:
            session.commit()

    @app.get("/asked")
    def asked(session: database) -> None:
        session.execute(INSERT, {"id": 2})

    async def send(message: Any) -> None: ...

    scope = {"type": "websocket", "path": "/open", "headers": [], "query_string": b""}
    asyncio.run(app(scope, send, send))  # type: ignore[arg-type]
    assert answers == [200]
    assert saved(server) == [1, 2, 3]
    assert pool.stats().in_use == 0
    pool.close()
    del engine
    gc.collect()


def test_options_of_the_session(engine: Engine) -> None:
    app = FastAPI()

    class Own(Session):
        pass

    @app.get("/")
    def route(
        session: Annotated[Session, Depends(fastapi.session(engine, class_=Own, autoflush=False), scope="function")],
    ) -> list[bool]:
        return [isinstance(session, Own), session.autoflush]

    assert ask(app).body == b"[true,false]"


@pytest.mark.sampled(4, "many cases")
@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("postgresql://app:hush@h/d", {}, r"engine is not valid: it must be made by .*, not str"),
        (None, {"bind": None}, r"bind is not valid in session\(\)"),
        (None, {"binds": {int: 5}}, r"binds is not valid in session\(\): .* an Engine"),
        (None, {"class_": 5}, r"class_ is not valid in session\(\): .* not int"),
        (None, {"colour": 1}, r"session\(\) was given an option that is not valid for a session"),
    ],
)
def test_bad_arguments(engine: Engine, given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(lambda_pool.ConfigError, match=message):
        fastapi.session(given or engine, **options)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def run_uncollected(main: Coroutine[Any, Any, None]) -> None:
    """Run it without the garbage collector, which would give back what nobody else does."""
    gc.disable()
    try:
        asyncio.run(main)
    finally:
        gc.enable()


def test_a_request_that_asyncio_cancels_as_it_ends_holds_nothing(
    engine: Engine, pool: lambda_pool.Pool, server: Server
) -> None:
    """A time-out such as `asyncio.wait_for` around the application ends the request before its COMMIT has begun."""
    app = FastAPI()

    @app.post("/")
    async def route(session: Annotated[Session, Depends(fastapi.session(engine), scope="function")]) -> None:
        session.execute(INSERT, {"id": 1})
        asyncio.get_running_loop().call_soon(cancelled[0].cancel)

    cancelled: list[asyncio.Task[Any]] = []

    async def main() -> None:
        cancelled.append(asyncio.create_task(asgi(app, "/", method="POST")))
        with pytest.raises(asyncio.CancelledError):
            await cancelled[0]
        await until(lambda: pool.stats().in_use == 0)

    run_uncollected(main())
    assert saved(server) == []


def test_a_request_that_asyncio_cancels_while_its_thread_waits_for_a_connection(
    engine: Engine, pool: lambda_pool.Pool, server: Server
) -> None:
    app = FastAPI()
    ended: list[bool] = []

    @app.post("/")
    def route(session: Annotated[Session, Depends(fastapi.session(engine), scope="function")]) -> None:
        try:
            session.execute(INSERT, {"id": 1})
        finally:
            ended.append(True)

    async def main() -> None:
        with pool.connection(), pool.connection():
            request = asyncio.create_task(asgi(app, "/", method="POST"))
            await until(lambda: pool.stats().waiting == 1)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(request, 5)
        await until(lambda: bool(ended))
        await until(lambda: pool.stats().in_use == 0)

    run_uncollected(main())
    assert saved(server) == []
