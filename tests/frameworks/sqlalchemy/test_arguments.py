"""What create_engine, handler and the URLs refuse, and what they say."""

import subprocess
import sys
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

import lambda_pool
from lambda_pool import ConfigError, Pool, api
from lambda_pool.sqlalchemy import create_engine, handler

PG = "postgresql://app@h.example/orders"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"pool_size": 5}, r"pool_size=5 is not valid .* max_size"),
        ({"max_overflow": 0}, r"max_overflow=0 .* max_size"),
        ({"pool_timeout": 3}, r"pool_timeout=3 .* timeout="),
        ({"pool_recycle": 300}, r"pool_recycle=300 .* max_lifetime"),
        ({"pool_pre_ping": True}, r"pool_pre_ping=True .* leave it out"),
        ({"pool_reset_on_return": "commit"}, "pool_reset_on_return='commit'"),
        ({"pool_use_lifo": True}, "pool_use_lifo=True"),
        ({"poolclass": NullPool}, "poolclass is not valid"),
        ({"connect_args": {"password": "canary"}}, r"connect_args is not valid .* Pool\("),
        ({"creator": lambda: None}, "creator is not valid"),
        ({"module": sys}, "module is not valid"),
        ({"url": "x"}, "url is not valid"),
        ({"readonly": 1}, "readonly=1 is not valid"),
        ({"readonly": "no"}, "readonly='no' is not valid"),
        ({"isolation_level": "SOMETIMES"}, r"isolation_level='SOMETIMES' .* SERIALIZABLE"),
        ({"no_such_option": 1}, "no_such_option"),
        ({"echo": False, "json_serialiser": None}, "json_serialiser"),
    ],
)
@pytest.mark.parametrize("url", [PG, "mysql://app@h.example/orders"])
def test_a_bad_option_is_named(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        create_engine(Pool(url), **options)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("options", [{"pool_pre_ping": False, "pool_recycle": -1, "pool_reset_on_return": None}, {}])
def test_what_changes_nothing_may_stay(options: dict[str, Any]) -> None:
    create_engine(Pool(PG), **options, echo=False, future=True, isolation_level="REPEATABLE READ")


def test_a_recycling_that_the_pool_does_sooner_may_stay() -> None:
    create_engine(Pool(PG, max_lifetime=300), pool_recycle=300)
    with pytest.raises(ConfigError, match=r"pool_recycle=7200 .* max_lifetime"):
        create_engine(Pool(PG, max_lifetime=7201), pool_recycle=7200)


@pytest.mark.parametrize("where", ["app@h.example/orders", ""])
def test_what_flask_sqlalchemy_adds_for_mysql(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, so that nobody can take it out."""
    monkeypatch.setenv("LAMBDA_POOL_URL", "mysql://app@h.example/orders")
    url = make_url(f"mysql+lambda_pool://{where}").update_query_dict({"charset": "utf8mb4"})
    engine = sqlalchemy.engine_from_config({"url": url, "pool_recycle": 7200}, prefix="")
    assert engine.dialect.pool.config.url.host == "h.example"  # type: ignore[attr-defined]


@pytest.mark.parametrize("pool", ["postgresql://app:canary@h/d", 5, Pool, object()])
def test_what_is_no_pool(pool: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be a lambda_pool\.Pool") as caught:
        create_engine(pool)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "options", "says"),
    [
        (PG, {"autocommit": True}, "autocommit=True .*AUTOCOMMIT"),
        (PG, {"connect_args": {"row_factory": psycopg.rows.dict_row}}, "row_factory"),
        (PG, {"connect_args": {"cursor_factory": psycopg.ClientCursor}}, "cursor_factory"),
        (PG, {"connect_args": {"context": psycopg.adapters}}, "context"),
        ("mysql://app@h/d", {"connect_args": {"cursorclass": pymysql.cursors.DictCursor}}, "cursorclass"),
    ],
)
def test_a_pool_whose_connections_sqlalchemy_cannot_use(url: str, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        create_engine(Pool(url, **options))


def test_two_engines_of_one_pool_must_agree_on_what_they_share() -> None:
    pool = Pool(PG)
    create_engine(pool, json_serializer=repr)
    create_engine(pool, json_serializer=repr, readonly=True)
    with pytest.raises(ConfigError, match="json_serializer is not valid: another engine"):
        create_engine(pool, json_serializer=str)
    with pytest.raises(ConfigError, match="json_serializer"):
        create_engine(pool)
    with pytest.raises(ConfigError, match="isolation_level is not valid: another engine"):
        create_engine(pool, json_serializer=repr, isolation_level="SERIALIZABLE")
    create_engine(Pool(PG), json_serializer=str)


# --- URLs -------------------------------------------------------------------------------------------------------------


def test_a_url_without_a_host_is_the_default_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", PG)
    engine = sqlalchemy.create_engine("postgresql+lambda_pool://")
    assert engine.pool.status() == str(api.default_pool().stats())
    assert create_engine().pool.status() == engine.pool.status()
    with pytest.raises(ConfigError, match=r"mysql\+lambda_pool:// is not valid for a pool .* postgresql://"):
        sqlalchemy.create_engine("mysql+lambda_pool://")


def test_without_any_url(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAMBDA_POOL_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="LAMBDA_POOL_URL"):
        create_engine()
    with pytest.raises(ConfigError, match="LAMBDA_POOL_URL"):
        sqlalchemy.create_engine("postgresql+lambda_pool://")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+lambda_pool://user@",
        "mysql+lambda_pool:///orders",
        "mysql+lambda_pool://?a=b",
        "postgresql+lambda_pool://?charset=utf8mb4",
        "mysql+lambda_pool://?charset=latin1",
    ],
)
def test_a_url_with_half_of_it(url: str) -> None:
    with pytest.raises(ConfigError, match="add the host"):
        sqlalchemy.create_engine(url)


@pytest.mark.parametrize("make", [sqlalchemy.create_engine, create_async_engine])
@pytest.mark.parametrize(
    ("query", "addresses"),
    [
        ("host=one:5433&host=two:5434", (("one", 5433), ("two", 5434))),
        ("host=one,two", (("one", None), ("two", None))),
        ("host=/run/postgresql", (("/run/postgresql", None),)),
    ],
)
def test_hosts_in_the_query(make: Any, query: str, addresses: Any) -> None:
    engine = make(f"postgresql+lambda_pool://app@/orders?{query}")
    engine = getattr(engine, "sync_engine", engine)
    assert engine.dialect.pool.config.url.addresses == addresses


@pytest.mark.parametrize("poolclass", [QueuePool, StaticPool])
def test_another_pool_class_is_refused(poolclass: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    with pytest.raises(ConfigError, match=rf"poolclass={poolclass.__name__} is not valid"):
        sqlalchemy.create_engine("postgresql+lambda_pool://app@h.example/orders", poolclass=poolclass)


def test_options_of_a_pool_are_refused_by_name_with_a_url_too() -> None:
    with pytest.raises(ConfigError, match="pool_pre_ping=True"):
        sqlalchemy.create_engine("postgresql+lambda_pool://app@h.example/orders", pool_pre_ping=True)


@pytest.mark.parametrize("url", ["postgresql+lambda_pool://", "mysql+lambda_pool://"])
def test_the_asyncio_engine_is_the_pools_too(url: str) -> None:
    """What create_async_engine() asks for. SQLAlchemy's own would connect past the pool."""
    parsed = make_url(url)
    found = parsed.get_dialect().get_async_dialect_cls(parsed)
    assert found.is_async
    assert found.__module__ == "lambda_pool.sqlalchemy.asynchronous"


def test_the_dialects_are_entry_points() -> None:
    """Found without importing lambda_pool first, as Alembic and pandas do."""
    script = """
import sqlalchemy
for scheme in ("postgresql", "mysql", "mariadb"):
    url = f"{scheme}+lambda_pool://app@h.example/d"
    print(type(sqlalchemy.create_engine(url).pool).__name__)
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.split() == ["LambdaPool"] * 3


def test_a_url_with_a_password_shows_none() -> None:
    engine = sqlalchemy.create_engine("postgresql+lambda_pool://app:canary@h.example/orders?sslmode=require")
    assert "canary" not in f"{engine!r} {engine.url} {engine.pool!r} {engine.pool.status()} {vars(engine.dialect)}"


def test_without_sqlalchemy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("sqlalchemy", "lambda_pool.sqlalchemy"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigError, match=r"lambda-pool\[sqlalchemy\]"):
        __import__("lambda_pool.sqlalchemy")


# --- handler ----------------------------------------------------------------------------------------------------------


def test_a_bad_engine_is_named() -> None:
    for engine, shown in (
        (sqlalchemy.create_engine("postgresql+psycopg://app:canary@h/d"), r"postgresql\+psycopg"),
        (Pool(PG), "Pool"),
        ("canary", "str"),
    ):
        with pytest.raises(ConfigError, match=rf"engine is not valid: .* {shown}") as caught:
            handler(engine)  # type: ignore[arg-type]
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"expire_on_comit": False}, "expire_on_comit"),
        ({"bind": None}, "bind is not valid"),
        ({"class_": sessionmaker()}, r"class_ is not valid in handler\(\): .* not sessionmaker"),
        ({"binds": {int: f"{PG}?password=canary"}}, r"binds is not valid in handler\(\): .* an Engine$"),
        ({"binds": {"orders": create_engine(Pool(PG))}}, "not valid for a session: Not an acceptable bind target"),
        ({"join_transaction_mode": "x"}, "not valid for a session: invalid selection"),
        ({"inject": "no name"}, "inject='no name'"),
        ({"inject": "event"}, "too early"),
        ({"on_unavailable": 5}, "on_unavailable=5"),
    ],
)
def test_a_bad_option_of_handler_is_named(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):

        @handler(create_engine(Pool(PG)), **options)  # type: ignore[untyped-decorator]
        def function(event: Any, context: Any, session: Session) -> None: ...


def test_a_handler_that_lambda_cannot_call() -> None:
    async def function(event: Any, context: Any, session: Session) -> None: ...

    with pytest.raises(ConfigError, match="async def"):
        handler(create_engine(Pool(PG)), function)
    with pytest.raises(ConfigError, match="must be a function"):
        handler(create_engine(Pool(PG)), 5)  # type: ignore[call-overload]


def test_importing_the_package_does_not_import_it() -> None:
    assert lambda_pool.__all__
    script = "import sys, lambda_pool; lambda_pool.Pool; print('sqlalchemy' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "False"
