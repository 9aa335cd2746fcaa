"""Host, user and password given apart, in code or in the environment, instead of a URL."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lambda_pool
from lambda_pool import ConfigError, IamToken, Pool, RdsProxy, SecretsManager
from lambda_pool.config import PARTS, Url, from_parts

WHOLE: dict[str, Any] = {
    "host": "db.example",
    "port": 6543,
    "user": "app",
    "password": "p:/?#[]@ %41&=+é",
    "database": "my orders",
    "engine": "postgresql",
}
TLS = {"sslmode": "require", "sslcert": "/c.pem", "sslkey": "/k.pem", "sslpassword": "s3cr3t", "sslrootcert": "/ca.pem"}


def url_of(pool: Pool) -> Url:
    return pool.config.url


def check_whole(url: Url) -> None:
    assert url.password is not None
    assert (url.engine, url.host, url.port, url.user, url.password.reveal(), url.database) == (
        "postgresql",
        "db.example",
        6543,
        "app",
        WHOLE["password"],
        "my orders",
    )


def test_as_keywords() -> None:
    pool = Pool(**WHOLE, **TLS, pooled=True, max_size=2)  # type: ignore[call-overload]
    check_whole(url_of(pool))
    url = url_of(pool)
    assert (url.sslmode, url.sslrootcert, url.sslcert, url.sslkey) == ("require", "/ca.pem", "/c.pem", "/k.pem")
    assert url.pooled
    assert (pool.config.max_size, pool.name) == (2, "my orders")
    assert WHOLE["password"] not in repr(pool.config) + repr(pool)
    assert "s3cr3t" not in repr(pool.config)


def test_as_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**WHOLE, **TLS, "pooled": "true", "name": "main"}.items():
        monkeypatch.setenv(f"LAMBDA_POOL_{name.upper()}", str(value))
        monkeypatch.setenv(f"OTHER_{name.upper()}", str(value))
    for pool in (Pool(), Pool.from_env(), Pool.from_env("OTHER_")):
        check_whole(url_of(pool))
        assert (url_of(pool).sslmode, url_of(pool).pooled, pool.name) == ("require", True, "main")
        assert WHOLE["password"] not in repr(pool.config)


def test_variables_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What most people have, and what is missing in it."""
    import os

    for name, value in {"DB_HOST": "db.example", "DB_USER": "app", "DB_PASSWORD": "a@b", "DB_PORT": "3306"}.items():
        monkeypatch.setenv(name, value)
    env = os.environ
    url = url_of(
        Pool(
            host=env["DB_HOST"], port=env["DB_PORT"], user=env["DB_USER"], password=env.get("DB_PASSWORD"), database="d"
        )
    )
    assert (url.engine, url.host, url.port, url.user) == ("mysql", "db.example", 3306, "app")
    with pytest.raises(ConfigError, match=r"host is missing, but is needed with user, engine"):
        Pool(host=env.get("DB_HOTS"), user="app", engine="mysql")


def test_without_any_of_them_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no database URL.*LAMBDA_POOL_HOST"):
        Pool(host=None, user=None, password=None)
    monkeypatch.setenv("LAMBDA_POOL_URL", "mysql://app@h/d")
    assert url_of(Pool(host=None, user=None, password=None)).host == "h"


# --- beside a URL -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
def test_a_url_and_any_of_them_is_a_contradiction(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value: Any = "s3cr3t" if part != "pooled" else True
    says = (
        rf"a URL and {part}=\.\.\. are both given: keep either the URL" if part != "engine" else "engine is not valid"
    )
    with pytest.raises(ConfigError, match=says) as caught:
        Pool("postgresql://app@h/d", **{part: value})
    assert "s3cr3t" not in str(caught.value)
    monkeypatch.setenv("LAMBDA_POOL_URL", "postgresql://app@h/d")
    monkeypatch.setenv(f"LAMBDA_POOL_{part.upper()}", "s3cr3t")
    makers: list[Callable[[], Pool]] = [Pool, Pool.from_env, lambda: Pool("postgresql://app@h/d")]
    for make in makers:
        with pytest.raises(
            ConfigError, match=rf"LAMBDA_POOL_URL and LAMBDA_POOL_{part.upper()} are both set"
        ) as caught:
            make()
        assert "s3cr3t" not in str(caught.value)


def test_code_and_environment_are_not_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of one database must not be sent to another one's host."""
    for name, value in WHOLE.items():
        monkeypatch.setenv(f"LAMBDA_POOL_{name.upper()}", str(value))
    other = url_of(Pool(host="other.example", port=3306, user="report"))
    assert (other.engine, other.host, other.password, other.database) == ("mysql", "other.example", None, "")
    assert url_of(Pool("mysql://h/d")).password is None
    monkeypatch.setenv("LAMBDA_POOL_MAX_SIZE", "3")  # but options are for all
    assert Pool(host="other.example", port=3306).config.max_size == 3
    with pytest.raises(ConfigError, match="host is missing, but is needed with password"):
        Pool(password="x", engine="mysql")


def test_database_url_is_for_those_who_say_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://app@h/d")
    assert url_of(Pool()).host == "h"
    monkeypatch.setenv("LAMBDA_POOL_HOST", "db.example")
    monkeypatch.setenv("LAMBDA_POOL_ENGINE", "postgresql")
    for pool in (Pool(), Pool.from_env()):
        assert (url_of(pool).engine, url_of(pool).host) == ("postgresql", "db.example")


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in PARTS:
        monkeypatch.setenv(f"LAMBDA_POOL_{part.upper()}", "")
    monkeypatch.setenv("LAMBDA_POOL_URL", "mysql://app@h/d")
    assert url_of(Pool()).host == "h"


# --- each part --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "engine"),
    [
        ({"engine": "postgresql"}, "postgresql"),
        ({"engine": "postgres"}, "postgresql"),
        ({"engine": "MariaDB"}, "mysql"),
        ({"port": 5432}, "postgresql"),
        ({"port": "3306"}, "mysql"),
        ({"port": 3306, "engine": "postgresql"}, "postgresql"),
    ],
)
def test_the_engine(given: dict[str, Any], engine: str) -> None:
    assert url_of(Pool(host="h", **given)).engine == engine


@pytest.mark.parametrize(
    "host",
    [
        "db.example",
        "10.0.0.7",
        "::1",
        "[::1]",
        "2001:db8::7",
        "/run/postgresql",
        "/run/my sql/s.sock",
        "@abstract",
        "हिन्दी.example",
    ],
)
def test_a_host(host: str) -> None:
    assert url_of(Pool(host=host, engine="postgresql")).host == host.strip("[]")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"host": "h"}, "engine is missing: give 'postgresql' or 'mysql'"),
        ({"host": "h", "port": 6432}, "engine is missing"),
        ({"host": "h", "engine": "oracle"}, "engine is not valid.*'postgresql' or 'mysql'"),
        ({"host": "h", "engine": 5}, "engine is not valid"),
        ({"engine": "mysql"}, "host is missing, but is needed with engine"),
        ({"host": "", "engine": "mysql"}, "host is missing"),
        ({"host": "h", "port": 0}, "port is not valid.*1 to 65535"),
        ({"host": "h", "port": "s3cr3t"}, "port is not valid"),
        ({"host": "h", "port": True}, "port is not valid"),
        ({"host": "h", "port": 54.32}, "port is not valid"),
        ({"host": "h", "port": "99999"}, "port is not valid"),
        ({"host": "h", "port": "5432 "}, "port is not valid"),
        ({"host": "db.example:5432", "engine": "mysql"}, "only a host name; pass the port as port"),
        ({"host": "postgresql://u:s3cr3t@h/d", "port": 5432}, "pass a whole URL as url"),
        ({"host": "u:s3cr3t@h", "port": 5432}, "pass a whole URL as url"),
        ({"host": "h", "port": 5432, "database": "postgresql://u:s3cr3t@h/d"}, "database is not valid: it must be"),
        ({"host": "h", "port": 5432, "user": "postgresql://u:s3cr3t@h/d"}, "user is not valid: it must be only a name"),
        ({"host": "db.example/orders", "port": 5432}, "only a host name"),
        ({"host": "a,,b", "port": 5432}, "commas in between"),
        ({"host": "/run/a,", "port": 5432}, "commas in between"),
        ({"host": "a b", "port": 5432}, "letters, digits"),
        ({"host": "a\nb", "port": 5432}, "letters, digits"),
        ({"host": "'db.example'", "port": 5432}, "letters, digits"),
        ({"host": "${DatabaseHost}", "port": 5432}, "letters, digits"),
        ({"host": "arn:aws:rds:eu-central-1:123456789012:db:orders", "port": 5432}, "or an IP address"),
        ({"host": "[db.example]:x:", "port": 5432}, "or an IP address"),
        ({"host": ".orders.example", "engine": "mysql"}, "dots in between"),
        ({"host": 5, "port": 5432}, "host is not valid: it must be a string, not int"),
        ({"host": "h", "port": 5432, "user": 5}, "user is not valid: it must be a string"),
        ({"host": "h", "port": 5432, "password": b"s3cr3t"}, "password is not valid: it must be a string, not bytes"),
        ({"host": "h", "port": 5432, "password": "s3cr3t\0"}, "password is not valid: it holds a NUL"),
        ({"host": "h", "port": 5432, "password": "s3cr3t\udcff"}, "not UTF-8"),
        ({"host": "h", "port": 5432, "database": "a\0b"}, "database is not valid"),
        ({"host": "h", "port": 5432, "sslmode": "no"}, "sslmode='no'"),
        ({"host": "h", "port": 5432, "sslrootcert": ""}, "sslrootcert=''"),
        ({"host": "h", "port": 5432, "pooled": 1}, "pooled is not valid"),
        ({"host": "h", "port": 5432, "sslcert": "/c.pem"}, "belong together"),
    ],
)
def test_a_wrong_part(given: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        Pool(**given)
    assert "s3cr3t" not in repr(caught.value)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_HOST", "db.example:5432")
    with pytest.raises(ConfigError, match=r"LAMBDA_POOL_HOST is not valid.*pass the port as LAMBDA_POOL_PORT"):
        Pool()
    monkeypatch.setenv("LAMBDA_POOL_HOST", "db.example")
    with pytest.raises(ConfigError, match="LAMBDA_POOL_ENGINE is missing"):
        Pool()
    monkeypatch.setenv("LAMBDA_POOL_PORT", "many")
    with pytest.raises(ConfigError, match="LAMBDA_POOL_PORT is not valid"):
        Pool()
    monkeypatch.setenv("OTHER_USER", "app")
    with pytest.raises(ConfigError, match="OTHER_HOST is missing, but is needed with OTHER_USER"):
        Pool.from_env("OTHER_")


def test_whoever_knows_the_host_may_leave_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Pool(engine="postgresql", user="app", database="d", endpoint=RdsProxy("orders"))
    Pool(engine="postgresql", database="d", auth=SecretsManager("orders"))
    monkeypatch.setenv("LAMBDA_POOL_ENGINE", "postgresql")
    monkeypatch.setenv("LAMBDA_POOL_USER", "app")
    monkeypatch.setenv("LAMBDA_POOL_AUTH", "iam")
    with pytest.raises(ConfigError, match="LAMBDA_POOL_HOST is missing"):
        Pool()
    Pool(endpoint=RdsProxy("orders"))
    monkeypatch.setenv("LAMBDA_POOL_AURORA_CLUSTER", "orders")
    Pool()


def test_two_ways_to_log_in_are_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"password=\.\.\. and auth=\.\.\. are both given"):
        Pool(host="h", port=5432, password="s3cr3t", auth=IamToken())
    for name, value in {"HOST": "h", "PORT": "5432", "PASSWORD": "s3cr3t", "AUTH": "iam"}.items():
        monkeypatch.setenv(f"LAMBDA_POOL_{name}", value)
    with pytest.raises(ConfigError, match=r"LAMBDA_POOL_PASSWORD is set, and auth=\.\.\. or LAMBDA_POOL_AUTH"):
        Pool()
    monkeypatch.delenv("LAMBDA_POOL_AUTH")
    assert url_of(Pool()).password is not None
    with pytest.raises(ConfigError, match=r"LAMBDA_POOL_PASSWORD is set, and auth=\.\.\."):
        Pool(auth=IamToken())


def test_an_unknown_keyword_may_be_a_part() -> None:
    with pytest.raises(ConfigError, match="did you mean host"):
        Pool(hots="h")  # type: ignore[call-overload]


@given(st.dictionaries(st.sampled_from(PARTS), st.text(max_size=12) | st.sampled_from(["5432", "h", "mysql"])))
def test_any_texts_are_a_url_or_one_clear_error(parts: dict[str, str]) -> None:
    try:
        url = from_parts(parts, str.upper, needs_host=False)
    except ConfigError as error:
        assert any(part in str(error) for part in (*map(str.upper, PARTS), *PARTS))
        return
    assert url.engine in {"postgresql", "mysql"}
    assert (url.user, url.database) == (parts.get("user", ""), parts.get("database", ""))
    assert (url.password.reveal() if url.password else None) == parts.get("password")
    assert lambda_pool.config.make(url, None, {}, {}).url == url


@pytest.mark.parametrize("engine", ["postgresql", "Postgres"])
def test_the_engine_beside_a_url_must_agree_with_it(engine: str) -> None:
    assert url_of(Pool("postgresql://app@db.example/orders", engine=engine)).engine == "postgresql"
    with pytest.raises(ConfigError, match=f"engine='{engine}' is not valid: the URL is for mysql; change one"):
        Pool("mysql://app@db.example/orders", engine=engine)
    with pytest.raises(ConfigError, match="engine is not valid"):
        Pool("mysql://app@db.example/orders", engine="oracle")
