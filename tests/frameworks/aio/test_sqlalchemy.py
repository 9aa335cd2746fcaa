"""create_async_engine and its sessions, on both engines, and on the same connections as the pool's own."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text
from sqlalchemy.exc import SAWarning, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.ext.asyncio import create_async_engine as plain_create
from sqlalchemy.orm import Session, registry

import lambda_pool
from lambda_pool import CommitUncertain, ConfigError, ConnectError, PoolTimeout, waiting
from lambda_pool.api import core_of
from lambda_pool.sqlalchemy import create_async_engine, create_engine, handler
from lambda_pool.testing.network import FaultyProxy
from tests.frameworks.aio.conftest import Ground, at_rest, query


async def add(conn: AsyncConnection | AsyncSession, ground: Ground, number: int) -> None:
    await conn.execute(text(f"insert into {ground.table} values (:id)"), {"id": number})


async def numbers(conn: AsyncConnection | AsyncSession, ground: Ground) -> list[int]:
    return list((await conn.execute(text(f"select id from {ground.table} order by id"))).scalars())


def test_transactions_and_sessions_share_the_pools_connection(ground: Ground) -> None:
    pool = ground.pool()
    engine = create_async_engine(pool)

    async def work() -> None:
        async with engine.begin() as conn:
            await add(conn, ground, 1)
        async with AsyncSession(engine) as session, session.begin():
            await add(session, ground, 2)
        with contextlib.suppress(ZeroDivisionError):
            async with engine.begin() as conn:
                await add(conn, ground, 3)
                raise ZeroDivisionError
        async with pool.connection() as plain:
            assert await query(plain, f"select count(*) from {ground.table}") == [(2,)]
        async with engine.connect() as conn:
            assert await numbers(conn, ground) == [1, 2]

    asyncio.run(work())
    assert pool.stats().opened == 1
    assert at_rest(pool)


def test_an_attribute_that_would_be_loaded_without_await(ground: Ground) -> None:
    """It would block the event loop."""

    class Row:
        id: int

    table = sqlalchemy.Table(
        ground.table, sqlalchemy.MetaData(), sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True)
    )
    registry().map_imperatively(Row, table)
    pool = ground.pool()
    engine = create_async_engine(pool)

    async def work() -> None:
        async with AsyncSession(engine) as session:
            await add(session, ground, 1)
            row = (await session.execute(sqlalchemy.select(Row))).scalar_one()
            await session.commit()
            with pytest.raises(SQLAlchemyError, match="xd2s"):  # MissingGreenlet, or wrapped around it
                _ = row.id
            await session.refresh(row)
            assert row.id == 1

    asyncio.run(work())
    assert at_rest(pool)


def test_a_new_loop_each_time(ground: Ground) -> None:
    pool = ground.pool()
    engine = create_async_engine(pool)

    async def work(number: int) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await add(session, ground, number)

    for number in range(5):
        asyncio.run(work(number))
    assert ground.rows() == list(range(5))
    assert pool.stats().opened == 1


def test_the_first_connections_of_several_loops_at_once(ground: Ground) -> None:
    """SQLAlchemy sets up one connection at a time, behind a lock that knows only one event loop."""
    pool = ground.pool(max_size=3)
    engine = create_async_engine(pool)

    @sqlalchemy.event.listens_for(engine.sync_engine, "connect")
    def listen(connection: Any, record: Any) -> None:
        while pool.stats().opened < 3:
            waiting.pause(0.01)
        waiting.pause(0.05)

    async def work(number: int) -> None:
        async with asyncio.timeout(20), engine.begin() as conn:
            await add(conn, ground, number)

    with ThreadPoolExecutor(3) as threads:
        for done in [threads.submit(asyncio.run, work(number)) for number in range(3)]:
            done.result()
    assert ground.rows() == [0, 1, 2]
    assert at_rest(pool)


def test_streams(ground: Ground) -> None:
    """Streams that are read to the end, and streams that are left in the middle."""
    pool = ground.pool()
    engine = create_async_engine(pool)

    async def work() -> None:
        async with engine.begin() as conn:
            for number in range(50):
                await add(conn, ground, number)
        async with engine.connect() as conn:
            async with conn.stream(text(f"select id from {ground.table} order by id")) as rows:
                assert [row.id async for row in rows] == list(range(50))
            async with conn.stream(text(f"select id from {ground.table} order by id")) as rows:
                assert (await rows.fetchmany(1))[0].id == 0
        async with AsyncSession(engine) as session:
            scalars = await session.stream_scalars(text(f"select id from {ground.table} order by id"))
            assert (await scalars.fetchmany(3)) == [0, 1, 2]
            await scalars.close()
        async with engine.connect() as conn:
            assert len(await numbers(conn, ground)) == 50

    asyncio.run(work())
    assert at_rest(pool)


def test_a_generator_that_only_the_garbage_collector_finds_ends_without_an_error(ground: Ground) -> None:
    """SQLAlchemy takes its connection away first. The generator's own rollback comes after that."""
    pool = ground.pool(max_size=1)
    engine = create_async_engine(pool)
    problems: list[dict[str, Any]] = []

    async def rows() -> AsyncIterator[int]:
        async with engine.connect() as conn:
            await conn.execute(text("select 1"))
            yield 1

    async def leave() -> None:
        left: list[Any] = [rows()]
        left.append(left)
        await anext(left[0])

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, problem: problems.append(problem))
        await leave()
        with pytest.warns(SAWarning, match="garbage collector"):
            gc.collect()
        while pool.stats().in_use:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        gc.collect()  # only then does a task say that nobody has asked for its error

    asyncio.run(main())
    assert problems == []
    assert at_rest(pool)


def test_read_only(ground: Ground) -> None:
    engine = create_async_engine(ground.pool(), readonly=True)

    async def work() -> None:
        with pytest.raises(sqlalchemy.exc.DBAPIError, match=r"(?i)read.only"):
            async with engine.begin() as conn:
                await add(conn, ground, 1)

    asyncio.run(work())
    assert ground.rows() == []


def test_a_level_that_cannot_be_taken_back_hides_nothing(ground: Ground) -> None:
    pool = ground.pool(max_size=1)
    engine = create_async_engine(pool)

    async def work() -> None:
        async with engine.connect() as conn:
            await conn.execution_options(isolation_level="SERIALIZABLE")
            await conn.execute(text("select 1"))
            ground.database.kill(ground.backend((await conn.get_raw_connection()).driver_connection))
            raise ZeroDivisionError

    async def again() -> None:
        async with engine.connect() as conn:
            assert await numbers(conn, ground) == []

    with pytest.raises(ZeroDivisionError):
        asyncio.run(work())
    assert at_rest(pool)
    asyncio.run(again())


def test_killed_while_idle(ground: Ground) -> None:
    pool = ground.pool()
    engine = create_async_engine(pool)

    async def backend() -> int:
        async with engine.connect() as conn:
            driver = (await conn.get_raw_connection()).driver_connection
            assert driver is not None
            return ground.backend(driver)

    first = asyncio.run(backend())
    ground.database.kill(first)
    assert asyncio.run(backend()) != first
    assert pool.stats().replaced == 1


def test_many_tasks_wait_for_one_connection(ground: Ground) -> None:
    pool = ground.pool(max_size=2, timeout=20)
    engine = create_async_engine(pool)

    async def one(number: int) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await add(session, ground, number)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(30):
                tasks.create_task(one(number))

    asyncio.run(work())
    assert ground.rows() == list(range(30))
    assert pool.stats().opened <= 2


@pytest.mark.sampled(1, "a second a case")
def test_cancelled_in_commit_and_in_a_statement(ground: Ground) -> None:
    with FaultyProxy("localhost", ground.database.server.port) as proxy:
        url = ground.database.url.replace(f":{ground.database.server.port}/", f":{proxy.port}/")
        pool = ground.pool(url=url)
        engine = create_async_engine(pool)

        async def one(number: int) -> str:
            async with AsyncSession(engine) as session, session.begin():
                await add(session, ground, number)
                if number == 2:
                    await session.execute(text(ground.slow))
                proxy.delay(0.3, new=False)
            return "saved"

        async def work() -> None:
            task = asyncio.create_task(one(1))
            while not ground.rows():
                await asyncio.sleep(0.01)
            task.cancel()
            assert await task == "saved"
            proxy.heal()
            task = asyncio.create_task(one(2))
            while not ground.sleepers():
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(work())
        assert ground.rows() == [1]
        assert at_rest(pool)


def test_tasks_that_share_a_connection_do_no_harm(ground: Ground) -> None:
    """On PostgreSQL they take turns, on MySQL the second is refused; no answer goes to the wrong one."""
    pool = ground.pool(max_size=1)
    engine = create_async_engine(pool)

    async def one(conn: AsyncConnection, number: int) -> int | None:
        return (await conn.execute(text(f"select {number}"))).scalar()

    async def row_by_row(conn: AsyncConnection) -> list[int]:
        async with conn.stream(text(f"select id from {ground.table}")) as rows:
            return [row.id async for row in rows]

    async def work() -> None:
        async with engine.begin() as conn:
            await add(conn, ground, 1)
            first, *others = await asyncio.gather(*(one(conn, number) for number in range(4)), return_exceptions=True)
            assert first == 0
            if ground.engine == "postgresql":
                assert others == [1, 2, 3]
            else:
                assert all("another task or thread waits" in str(error) for error in others)
                assert {type(error) for error in others} == {sqlalchemy.exc.InterfaceError}
        async with engine.connect() as conn:
            assert await numbers(conn, ground) == [1]
            await asyncio.gather(row_by_row(conn), one(conn, 2), return_exceptions=True)
            assert await one(conn, 3) == 3
        assert pool.stats().opened == 1

    asyncio.run(work())
    assert at_rest(pool)


def test_a_task_that_still_waits_is_woken_when_the_block_ends(ground: Ground) -> None:
    pool = ground.pool(max_size=1)
    engine = create_async_engine(pool)

    async def work() -> None:
        with contextlib.suppress(ZeroDivisionError):
            async with engine.connect() as conn:
                task = asyncio.create_task(conn.execute(text(ground.slow)))
                while not ground.sleepers():
                    await asyncio.sleep(0.02)
                raise ZeroDivisionError
        async with engine.connect() as conn:
            assert await numbers(conn, ground) == []
        with pytest.raises(sqlalchemy.exc.OperationalError):
            await asyncio.wait_for(task, 5)

    asyncio.run(work())
    assert at_rest(pool)


def test_a_lost_commit_is_uncertain(ground: Ground) -> None:
    with FaultyProxy("localhost", ground.database.server.port) as proxy:
        url = ground.database.url.replace(f":{ground.database.server.port}/", f":{proxy.port}/")
        engine = create_async_engine(ground.pool(url=url))

        async def work() -> None:
            with pytest.raises(CommitUncertain):
                async with engine.begin() as conn:
                    await add(conn, ground, 1)
                    proxy.cut(after=0, direction="to_client", existing=True)

        asyncio.run(work())


def test_the_handler_gives_a_session(ground: Ground) -> None:
    pool = ground.pool()
    engine = create_async_engine(pool)

    @handler(engine, expire_on_commit=False)
    async def with_session(event: Any, context: Any, session: AsyncSession) -> int:
        assert isinstance(session, AsyncSession)
        await add(session, ground, event)
        if event == 2:
            raise ValueError("mine")
        return len(await numbers(session, ground))

    assert with_session(1, None) == 1
    with pytest.raises(ValueError, match="mine"):
        with_session(2, None)
    assert with_session(3, None) == 2
    assert ground.rows() == [1, 3]
    assert pool.stats().opened == 1
    assert at_rest(pool)
    with pytest.raises(ConfigError, match="not valid for a session"):
        handler(engine, nonsense=1)
    with pytest.raises(ConfigError, match=r"binds is not valid in handler\(\): .* an AsyncEngine$"):
        handler(engine, binds={int: engine.sync_engine})
    with pytest.raises(ConfigError, match="plain function"):
        handler(engine, lambda event, context, session: None)


class Half(Session):
    """A session like SQLModel's."""

    def number_of(self, statement: Any) -> Any:
        return self.execute(statement).scalar()


class Mine(AsyncSession):
    sync_session_class = Half


@pytest.mark.parametrize("options", [{"class_": Mine}, {"sync_session_class": Half}])
def test_another_class_has_its_own_synchronous_half(ground: Ground, options: dict[str, Any]) -> None:
    @handler(create_async_engine(ground.pool()), **options)
    async def function(event: Any, context: Any, session: Any) -> Any:
        assert isinstance(session, options.get("class_", AsyncSession))
        await add(session, ground, 1)
        return await session.run_sync(lambda half: half.number_of(text(f"select id from {ground.table}")))

    assert function({}, None) == 1


def test_without_autobegin(ground: Ground) -> None:
    pool = ground.pool()

    @handler(create_async_engine(pool), autobegin=False)
    async def function(event: Any, context: Any, session: AsyncSession) -> str:
        async with session.begin():
            await add(session, ground, 1)
        if event == "begins":
            await session.begin()
            await add(session, ground, 2)
        return "saved"

    assert function("a block", None) == "saved"
    assert ground.rows() == [1]
    ground.database.execute(f"delete from {ground.database.table}")
    assert function("begins", None) == "saved"
    assert ground.rows() == [1, 2]
    assert at_rest(pool)


def test_on_unavailable_answers_before_the_handler_runs(ground: Ground) -> None:
    nobody = create_async_engine(ground.pool(url=ground.database.server.url(port=1), timeout=0.2))
    ran = []

    @handler(nobody, on_unavailable=lambda event, context, error: [event, type(error)])
    async def function(event: Any, context: Any, session: AsyncSession) -> None:
        ran.append(event)

    assert function(7, None) == [7, ConnectError]
    assert ran == []


@pytest.mark.parametrize("autobegin", [True, False])
def test_with_on_unavailable_the_handler_may_begin_itself(ground: Ground, autobegin: bool) -> None:
    pool = ground.pool()

    @handler(create_async_engine(pool), on_unavailable=lambda *_: "unavailable", autobegin=autobegin)
    async def function(event: Any, context: Any, session: AsyncSession) -> str:
        async with session.begin():
            await add(session, ground, event)
            if event == 2:
                raise KeyError(event)
        async with session.begin():
            await add(session, ground, event + 1)
        return "saved"

    with pytest.raises(KeyError):
        function(2, None)
    assert function(1, None) == "saved"
    assert ground.rows() == [1, 2]
    assert pool.stats().opened == 1
    assert at_rest(pool)


def test_with_on_unavailable_the_connection_is_there_already(ground: Ground) -> None:
    """So no exception of the handler itself is mistaken for it."""
    pool = ground.pool()

    @handler(create_async_engine(pool), on_unavailable=lambda *_: "unavailable")
    async def function(event: Any, context: Any, session: AsyncSession) -> int:
        in_use = pool.stats().in_use
        await add(session, ground, event)
        if event == 2:
            raise PoolTimeout("the handler's own")
        return in_use

    assert function(1, None) == 1
    with pytest.raises(PoolTimeout, match="own"):
        function(2, None)
    assert ground.rows() == [1]
    assert at_rest(pool)


def test_a_connection_that_is_lost_does_not_hide_the_handlers_own_error(ground: Ground) -> None:
    pool = ground.pool()

    @handler(create_async_engine(pool))
    async def function(event: Any, context: Any, session: AsyncSession) -> None:
        await add(session, ground, 1)
        raw = await (await session.connection()).get_raw_connection()
        ground.database.kill(ground.backend(raw.driver_connection))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        function({}, None)
    assert ground.rows() == []
    assert pool.stats().size == 0


def test_provisioned_concurrency_opens_ahead(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")

    async def function(event: Any, context: Any, session: AsyncSession) -> Any:
        return (await session.execute(text("select 1"))).scalar()

    pool = ground.pool()
    handle = handler(create_async_engine(pool), function)
    assert pool.stats().opened == 1
    assert handle({}, None) == 1
    assert pool.stats().opened == 1
    handler(create_async_engine(ground.pool(url=ground.database.server.url(port=1), timeout=0.1)), function)
    assert "the first invocation tries again" in caplog.text


def test_the_wrong_kind_of_pool_is_told(ground: Ground) -> None:
    pool = ground.pool()
    with pytest.raises(ConfigError, match="AsyncPool, not Pool"):
        create_async_engine(ground.database.pool())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"lambda_pool\.Pool, not AsyncPool"):
        create_engine(pool)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="async_creator is not valid"):
        create_async_engine(pool, async_creator=lambda: None)


def test_a_url_alone(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a host it has a pool of its own. Without a host it has the environment's pool."""
    monkeypatch.setenv("LAMBDA_POOL_URL", ground.database.url)
    scheme, _, rest = ground.database.url.partition("://")
    for url in (f"{scheme}+lambda_pool://{rest}", f"{scheme}+lambda_pool://"):
        engine: AsyncEngine = plain_create(url)

        async def work(engine: AsyncEngine = engine) -> None:
            async with engine.connect() as conn:
                assert (await conn.execute(text("select 1"))).scalar() == 1
            await engine.dispose()

        asyncio.run(work())
        assert isinstance(core_of(lambda_pool.AsyncPool(ground.database.url)).config.url.host, str)


@pytest.mark.sampled(1 / 2, "3 s a case")
def test_what_a_new_connection_is_asked_is_answered_in_time(ground: Ground) -> None:
    """This is what happens behind a proxy without a free backend: the proxy itself answers the login."""
    port = ground.database.server.port
    with FaultyProxy("localhost", port) as proxy:
        engine = create_async_engine(
            ground.pool(url=ground.database.url.replace(f":{port}/", f":{proxy.port}/"), timeout=3.0)
        )

        @sqlalchemy.event.listens_for(engine.sync_engine, "connect")
        def ask(conn: Any, record: Any) -> None:
            proxy.swallow("to_client", new=False)
            cursor = conn.cursor()
            cursor.execute("select 1")

        async def main() -> None:
            with pytest.raises(ConnectError, match="the login, but did not answer what is asked"):
                async with engine.connect():
                    pass

        began = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - began < 10
    assert (ground.pools[0].stats().in_use, ground.pools[0].stats().size) == (0, 0)
