"""Each example runs as it stands in its folder, on the genuine runtime, against a database of its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lambda_pool.testing import LambdaRuntime, MariaDbServer, PostgresServer

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

Start = Callable[..., LambdaRuntime]


@pytest.fixture
def start(lambda_rie: Path) -> Iterator[Start]:
    """start(example, url, handler=…, env=…): an environment with the example's function."""
    started: list[LambdaRuntime] = []

    def begin(
        example: str, url: str, *, handler: str = "app.handler", env: dict[str, str] | None = None
    ) -> LambdaRuntime:
        environment = {"LAMBDA_POOL_URL": url, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}
        runtime = LambdaRuntime(handler, code_dir=EXAMPLES / example, env=environment)
        started.append(runtime)
        runtime.start()
        return runtime

    yield begin
    for runtime in started:
        runtime.close()


@pytest.fixture
def shop(postgres: PostgresServer) -> PostgresServer:
    """The shared PostgreSQL, with empty tables of a shop."""
    for table in ("orders", "stock", "prices", "settlements"):
        postgres.execute(f"drop table if exists {table}")
    postgres.execute(
        "create table orders (number serial primary key, message text unique, article text not null,"
        " amount int not null default 1 check (amount > 0), settled bool not null default false)"
    )
    postgres.execute("create table stock (article text primary key, left_over int not null)")
    postgres.execute("create table prices (article text primary key, price int not null)")
    postgres.execute("create table settlements (amount int, orders int)")
    return postgres


@pytest.fixture
def reports(mariadb: MariaDbServer) -> MariaDbServer:
    """The shared MariaDB, with an empty table of sales."""
    mariadb.execute("drop table if exists sales")
    mariadb.execute("create table sales (article varchar(50), number int) engine=innodb")
    return mariadb


def end_sessions(server: PostgresServer) -> None:
    """The server ends every session but its own, as an administrator or a failover does."""
    server.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where backend_type = 'client backend' and pid <> pg_backend_pid()"
    )
