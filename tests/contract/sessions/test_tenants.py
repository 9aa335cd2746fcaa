"""What docs/sessions.md says of tenants: row-level security with a setting of the transaction."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import lambda_pool
from lambda_pool.testing import PostgresServer
from tests.support.context import LambdaContext
from tests.support.pgbouncer import PgBouncer
from tests.tools.docs.blocks import blocks

PAGE = Path(__file__).parents[3] / "docs" / "sessions.md"


class Context(LambdaContext):
    """In tenant isolation mode."""

    def __init__(self, tenant: str) -> None:
        super().__init__()
        self.tenant_id = tenant


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """With the page's own table and policy, and a user whom the policy binds."""
    [schema] = [block.code for block in blocks(PAGE) if block.language == "sql"]
    with PostgresServer() as server:
        for statement in schema.split(";\n"):
            server.execute(statement)
        server.execute("create role app login password 'app'")
        server.execute("grant all on orders to app")
        for tenant, article in (("a", "tea"), ("a", "milk"), ("b", "bread")):
            server.execute("insert into orders values (%s, %s)", tenant, article)
        yield server


def url(server: PostgresServer) -> str:
    return f"postgresql://app:app@127.0.0.1:{server.port}/{server.database}?sslmode=disable"


def as_on_the_page(pool: lambda_pool.Pool) -> Any:
    """The page's handler."""
    [code] = [block.code for block in blocks(PAGE) if block.language == "python"]
    namespace: dict[str, Any] = {"orders": pool}
    exec(compile(code, str(PAGE), "exec"), namespace)
    return namespace["count"]


def tenant_of(pool: lambda_pool.Pool) -> str | None:
    with pool.connection() as conn:
        found: str | None = conn.execute("select current_setting('app.tenant', true)").fetchone()[0]
        return found


def test_each_tenant_sees_its_own_rows(server: PostgresServer) -> None:
    pool = lambda_pool.Pool(url(server))
    count = as_on_the_page(pool)
    assert [count({}, Context(tenant)) for tenant in ("a", "b", "a", "'; drop table orders; --")] == [2, 1, 2, 0]
    assert tenant_of(pool) == ""  # not missing any more
    with pool.connection() as conn:
        assert conn.execute("select count(*) from orders").fetchone() == (0,)
    pool.close()


def test_under_autocommit_the_setting_is_gone_at_once(server: PostgresServer) -> None:
    pool = lambda_pool.Pool(url(server), autocommit=True)
    with pool.connection() as conn:
        conn.execute("select set_config('app.tenant', 'a', true)")
        assert conn.execute("select current_setting('app.tenant', true)").fetchone()[0] in (None, "")
        with conn.transaction():
            conn.execute("select set_config('app.tenant', 'a', true)")
            assert conn.execute("select count(*) from orders").fetchone() == (2,)
    pool.close()


@pytest.mark.parametrize("local", [False, True])
def test_behind_a_pooler_a_sessions_setting_is_another_functions(server: PostgresServer, local: bool) -> None:
    with PgBouncer(server, default_pool_size=1) as bouncer:
        pool = lambda_pool.Pool(bouncer.url())
        with pool.connection() as conn:
            conn.execute("select set_config('app.tenant', 'a', %s)", [local])
        with psycopg.connect(bouncer.url(pooled=False), prepare_threshold=None) as other:
            [found] = other.execute("select current_setting('app.tenant', true)").fetchone() or []
        assert found == ("" if local else "a")
        pool.close()
