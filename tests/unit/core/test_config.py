"""URLs, options and environment variables: what is wrong raises, names itself and the fix, and shows no password."""

import re
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lambda_pool
from lambda_pool import ConfigError, config
from lambda_pool.metrics.emf import EmfMetrics
from tests.support.speed import examples

URL = "postgresql://app:s3cr3t@db.example:5433/orders"


def make(url: str | None = URL, **options: Any) -> config.Config:
    return config.make(url, None, options, {})


def test_every_part_of_a_url() -> None:
    url = make(URL + "?sslmode=require&sslrootcert=/ca.pem&pooled=true&target_session_attrs=any").url
    assert (url.engine, url.host, url.port, url.user, url.database) == (
        "postgresql",
        "db.example",
        5433,
        "app",
        "orders",
    )
    assert url.password is not None
    assert url.password.reveal() == "s3cr3t"
    assert (url.sslmode, url.sslrootcert, url.pooled) == ("require", "/ca.pem", True)
    assert url.parameters == {"target_session_attrs": "any"}


@pytest.mark.parametrize(
    ("scheme", "engine"),
    [
        ("postgresql", "postgresql"),
        ("postgres", "postgresql"),
        ("postgresql+psycopg", "postgresql"),
        ("mysql", "mysql"),
        ("mysql+pymysql", "mysql"),
        ("mariadb", "mysql"),
        ("MySQL", "mysql"),
    ],
)
def test_schemes(scheme: str, engine: str) -> None:
    assert make(f"{scheme}://h/d").url.engine == engine


def test_escapes_ipv6_and_sockets() -> None:
    url = make("postgresql://us%40er:p%3A%2F%3F%23%40%25@[::1]:5432/my%20db").url
    assert (url.user, url.host, url.database) == ("us@er", "::1", "my db")
    assert url.password is not None
    assert url.password.reveal() == "p:/?#@%"
    assert make("postgresql:///d?host=/run/pg").url.host == "/run/pg"
    assert make("mysql:///d?unix_socket=/run/my.sock").url.host == "/run/my.sock"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("oracle://h/d", "postgresql:// or mysql://"),
        ("db.example/orders", "postgresql:// or mysql://"),
        ("", "postgresql:// or mysql://"),
        ("postgresql://app:s3cr3t@h:port/d", "1 to 65535"),
        ("postgresql://app:s3cr3t@h:0/d", "1 to 65535"),
        ("postgresql://app:s3cr3t@h:65536/d", "1 to 65535"),
        ("postgresql://app:s3cr3t@h:99999999999999999999/d", "1 to 65535"),
        ("postgresql://app:s3@cr3t@h/d", "more than one '@'"),
        ("postgresql://app:s3/cr3t@h/d", "%2F"),
        ("postgresql://app:s3#cr3t@h/d", "%23"),
        ("postgresql://app:s3?cr3t@h/d", "%3F"),
        ("postgresql://app:12/s3cr3t@h", "%2F"),
        ("postgresql://app:s3cr3t@h/d/e", "one database name"),
        ("postgresql://app:s3cr3t@h one/d", "letters, digits"),
        ("postgresql://app:s3cr3t@'db.example'/d", "\"'db.example'\" is not valid.*letters, digits"),
        ("postgresql://app:s3cr3t@${DatabaseHost}/d", "{DatabaseHost}' is not valid.*letters, digits"),
        ("postgresql:///d?host=[::1]", "or an IP address"),
        ("postgresql://app:s3cr3t@::1/d", "IPv6"),
        ("postgresql://app:s3cr3t@[::1/d", "IPv6"),
        ("postgresql://%ff@h/d", "user.*UTF-8"),
        ("postgresql://app:%ff@h/d", "password.*UTF-8"),
        ("postgresql://h/%ff", "database.*UTF-8"),
        ("postgresql://h/d?sslmode=verify", "sslmode='verify'.*verify-full"),
        ("postgresql://h/d?sslrootcert=", "sslrootcert=''.*path"),
        ("postgresql://h/d?pooled=maybe", "pooled='maybe'.*true or false"),
        ("postgresql://h/d?application_name", "without a value"),
        ("postgresql://h/d?a=1&a=2", "twice"),
        ("postgresql://h/d?password=s3cr3t", "'password'.*before the query"),
        ("postgresql://h/d?user=app", "'user'.*before the query"),
        ("postgresql://h/d?host=/run/pg", "hosts in two places"),
    ],
)
def test_a_wrong_url(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        make(url)
    assert "s3cr3t" not in str(caught.value)
    assert "cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("max_size", 0, "at least 1"),
        ("max_size", 1.5, "whole number"),
        ("max_size", True, "whole number"),
        ("max_size", "many", "whole number"),
        ("min_size", -1, "at least 0"),
        ("min_size", 2, "max_size"),
        ("timeout", 0, "seconds above 0"),
        ("timeout", float("nan"), "seconds above 0"),
        ("timeout", float("inf"), "1000000"),
        ("timeout", 1_000_001, "at most 1000000"),
        ("timeout", "soon", "seconds above 0"),
        ("timeout", None, "seconds above 0"),
        ("wake_timeout", -1, "0 to switch it off"),
        ("wake_timeout", 5.0, "more than timeout .5.,"),
        ("connect_timeout", -1, "seconds above 0"),
        ("ping_after", -0.1, "0 to ping at each checkout"),
        ("ping_timeout", 0, "seconds above 0"),
        ("max_lifetime", 0, "seconds above 0"),
        ("max_idle", 0, "seconds above 0"),
        ("max_idle", "never", "seconds above 0"),
        ("keep_below", 1.5, "to 1 .to keep always"),
        ("keep_below", "half", "a number from 0"),
        ("session_idle", -1, "0 to leave the server's own timer alone"),
        ("autocommit", "maybe", "true or false"),
        ("autocommit", 1, "true or false"),
        ("reset", "all", "'changed' or 'transaction' or 'session'"),
        ("unsaved", "ignore", "'raise' or 'warn'"),
        ("leak_after", -1, "0 to switch it off"),
        ("slow_query", -1, "0 to switch it off"),
        ("trace_comment", "maybe", "true or false"),
        ("cancel_before_deadline", -1, "0 to switch it off"),
        ("graceful_shutdown", "maybe", "true or false"),
        ("metrics", "loud", "'emf'"),
        ("metrics_interval", -1, "seconds above 0"),
        ("connect_args", "not json", "JSON object"),
        ("connect_args", [1], "mapping"),
    ],
)
def test_a_wrong_option(option: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){option}.*{said}"):
        make(**{option: value})


def test_the_longest_time_is_the_one_that_the_error_names() -> None:
    assert make(timeout=1_000_000).timeout == 1_000_000
    assert EmfMetrics(interval=1_000_000)


def test_a_long_value_is_cut_in_its_error() -> None:
    with pytest.raises(ConfigError, match=r"reset='x{99}\.\.\. is not valid"):
        make(reset="x" * 5_000)


def test_every_option_has_a_wrong_value_here() -> None:
    """A new option without a test of its check fails this."""
    tried = {mark.args[1][index][0] for mark in test_a_wrong_option.pytestmark for index in range(len(mark.args[1]))}
    assert tried == set(config.OPTIONS)


class Word(str, Enum):  # noqa: UP042 - the kind that is meant
    """What projects keep their settings in: `str()` of a member is its name, and the driver calls `str()`."""

    RESET = "session"
    METRICS = "off"
    USER = "app"
    REGION = "eu-central-1"


def test_a_member_of_an_enum_of_texts_is_the_text() -> None:
    found = make(reset=Word.RESET, metrics=Word.METRICS)
    assert [str(found.reset), str(found.metrics)] == ["session", "off"]
    pool = lambda_pool.Pool(host="db.example", engine="postgresql", user=Word.USER, database=Word.USER)
    assert [str(text) for text in (pool.config.url.user, pool.config.url.database, pool.name)] == ["app"] * 3
    sources = (
        lambda_pool.SecretsManager(Word.USER),
        lambda_pool.RdsProxy(Word.USER),
        lambda_pool.AuroraCluster(Word.USER),
    )
    assert [repr(source).partition("(")[2] for source in sources] == ["'app')"] * 3
    assert repr(lambda_pool.IamToken(Word.REGION)) == "IamToken(region='eu-central-1')"


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"max_sise is not an option.*did you mean max_size"):
        make(max_sise=2)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("dbname", "write database="),
        ("passwd", "write password="),
        ("unix_socket", "write host="),
        ("maxconn", "write max_size="),
        ("ssl", "write sslmode="),
        ("ssl_ca", "write sslrootcert="),
        ("pool_size", "write the option max_size"),
        ("kwargs", "write connect_args=..."),
        ("maxsize", "did you mean max_size?"),
        ("observer", "did you mean observers?"),
        ("check", "it is for another pool and means nothing here: take it out"),
        ("reconnect_timeout", "it is for another pool and means nothing here: take it out"),
        ("plugins", "it is for another pool and means nothing here: take it out"),
        ("configure", "write what it does at the start of the handler"),
        ("pool_timeout", "write the option timeout"),
        ("connection_limit", "write the option max_size"),
        ("max_inactive_connection_lifetime", "write the option max_idle"),
        ("iam_region", "write auth=IamToken(region=...)"),
        ("sql_mode", "write connect_args={'sql_mode': ...}"),
        ("secret_id", "write auth=SecretsManager(...)"),
        ("secret_arn", "write auth=SecretsManager(...)"),
        ("secretname", "write auth=SecretsManager(...)"),
        ("rds_proxy", "write endpoint=RdsProxy(...)"),
        ("aurora_cluster", "write endpoint=AuroraCluster(...)"),
    ],
)
def test_a_keyword_of_a_drivers_connect_is_told_what_it_is_called_here(key: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**{key: "s3cr3t"})
    assert f"{key} is not an option of Pool" in str(raised.value)
    assert said in str(raised.value)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("name", ["SQL_MODE", "RECONNECT_TIMEOUT"])
def test_a_variable_of_another_tool_is_no_misspelt_one_of_ours(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_URL", URL)
    monkeypatch.setenv(f"SHOP_{name}", "x")
    assert lambda_pool.Pool.from_env("SHOP_").config.url.host


@pytest.mark.parametrize("key", ["charset", "cursor_factory", "cursorclass", "statement_timeout"])
def test_an_argument_that_only_a_driver_knows_is_told_its_place_first(key: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(**{key: "s3cr3t"})
    told = f"{key} is not an option of Pool: for an argument of the driver's connect(), write connect_args={{{key!r}:"
    assert str(raised.value).startswith(told)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("url", ["host=db.example dbname=s3cr3t", "app:s3cr3t@db.example/orders", "db.example"])
def test_what_is_no_url_may_be_given_in_parts(url: str) -> None:
    with pytest.raises(ConfigError, match=r"does not \(or give its parts: host, user, .*engine\)") as raised:
        make(url)
    assert "s3cr3t" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "x" * 101, 5])
def test_a_wrong_name(name: object) -> None:
    with pytest.raises(ConfigError, match="name="):
        config.make(URL, name, {}, {})  # type: ignore[arg-type]


def test_no_url_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match="LAMBDA_POOL_URL"):
        make(None)


def test_the_password_is_in_no_repr() -> None:
    made = make(connect_args={"password": "s3cr3t"})
    assert "s3cr3t" not in repr(made)
    assert "s3cr3t" not in str(made.url)


class TestEnvironment:
    def test_everything(self) -> None:
        read = config.read_environment(
            environ={
                "LAMBDA_POOL_URL": URL,
                "LAMBDA_POOL_NAME": "main",
                "LAMBDA_POOL_AUTH": "secret",
                "LAMBDA_POOL_SECRET_ID": "orders",
                "LAMBDA_POOL_RDS_PROXY": "proxy",
                "LAMBDA_POOL_MAX_SIZE": "3",
                "LAMBDA_POOL_AUTOCOMMIT": " true ",
                "LAMBDA_POOL_MAX_IDLE": "60",
                "PATH": "/bin",
            }
        )
        assert (read.url, read.name, read.auth, read.secret_id, read.rds_proxy) == (
            URL,
            "main",
            "secret",
            "orders",
            "proxy",
        )
        made = config.make(read.url, read.name, {}, read.options)
        assert (made.max_size, made.autocommit, made.max_idle, made.name) == (3, True, 60.0, "main")
        assert "s3cr3t" not in repr(read)

    def test_a_keyword_wins(self) -> None:
        assert config.make(URL, None, {"max_size": 2}, {"max_size": "3"}).max_size == 2

    def test_database_url_stands_in_for_the_default_prefix_only(self) -> None:
        environ = {"DATABASE_URL": URL}
        assert config.read_environment(environ=environ).url == URL
        assert config.read_environment("ORDERS_", environ).url is None

    def test_a_wrong_url_names_its_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = re.escape(
            "the URL must start with postgresql:// or mysql://, but what was given does not"
            " (or give its parts: host, user, password, database and engine)"
        )
        monkeypatch.setenv("DATABASE_URL", "s3cr3t")
        for make in (lambda_pool.Pool, lambda_pool.Pool.from_env):
            with pytest.raises(ConfigError, match=f"^DATABASE_URL: {said}$"):
                make()
        monkeypatch.setenv("LAMBDA_POOL_URL", "s3cr3t")
        with pytest.raises(ConfigError, match=f"^LAMBDA_POOL_URL: {said}$"):
            lambda_pool.Pool()
        with pytest.raises(ConfigError, match=f"^{said}$"):
            lambda_pool.Pool("s3cr3t")
        monkeypatch.setenv("ORDERS_URL", "postgresql://h:0/d")
        with pytest.raises(ConfigError, match=r"^ORDERS_URL: the URL's port 0 is not valid"):
            lambda_pool.Pool.from_env("ORDERS_")

    @pytest.mark.parametrize(
        ("environ", "said"),
        [
            ({"LAMBDA_POOL_TIMEOUTS": "1"}, "LAMBDA_POOL_TIMEOUTS is not a variable.*LAMBDA_POOL_TIMEOUT"),
            (
                {"LAMBDA_POOL_SCHEMA": "x"},
                "LAMBDA_POOL_SCHEMA is not a variable of lambda_pool: known ones are LAMBDA_POOL_AURORA_CLUSTER, ",
            ),
            ({"LAMBDA_POOL_POOL_SIZE": "2"}, "LAMBDA_POOL_POOL_SIZE is not a variable.*: write the option max_size$"),
            ({"LAMBDA_POOL_AUTH": "kerberos"}, "LAMBDA_POOL_AUTH.*'iam'"),
            ({"LAMBDA_POOL_AUTH": "secret"}, "set LAMBDA_POOL_SECRET_ID"),
            ({"LAMBDA_POOL_AUTH": "iam", "LAMBDA_POOL_SECRET_ID": "x"}, "keep one"),
            ({"LAMBDA_POOL_RDS_PROXY": "x", "LAMBDA_POOL_AURORA_CLUSTER": "y"}, "keep one"),
        ],
    )
    def test_contradictions_and_unknown_variables(self, environ: dict[str, str], said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            config.read_environment(environ=environ)

    def test_a_wrong_value_names_the_variable(self) -> None:
        with pytest.raises(ConfigError, match="LAMBDA_POOL_TIMEOUT='soon'"):
            config.make(URL, None, {}, {"timeout": "soon"})


@pytest.mark.sampled(1 / 3, "5 s")
@settings(max_examples=examples(2000), deadline=None)
@given(st.text() | st.text(alphabet="postgresql:/@?&=#%[]0123456789abc ").map("postgresql://".__add__))
def test_any_text_is_a_url_or_one_clear_error(text: str) -> None:
    try:
        config.parse_url(text)
    except ConfigError as error:
        assert str(error)


@settings(max_examples=examples(500), deadline=None)
@given(
    user=st.text(min_size=1, max_size=20),
    password=st.text(min_size=1, max_size=40),
    database=st.text(min_size=1, max_size=20),
)
def test_quoted_parts_come_back_as_they_were(user: str, password: str, database: str) -> None:
    from urllib.parse import quote

    try:
        text = f"mysql://{quote(user, safe='')}:{quote(password, safe='')}@h:1/{quote(database, safe='')}"
    except UnicodeEncodeError:  # a lone surrogate has no UTF-8
        return
    if "\0" in user + password + database:  # no driver can send one
        with pytest.raises(ConfigError, match="NUL"):
            config.parse_url(text)
        return
    url = config.parse_url(text)
    assert url.password is not None
    assert (url.user, url.password.reveal(), url.database) == (user, password, database)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({}, 1),
        ({"AWS_LAMBDA_MAX_CONCURRENCY": "16"}, 16),
        ({"AWS_LAMBDA_INITIALIZATION_TYPE": "native-http"}, 64),
        ({"AWS_LAMBDA_HTTP_ENDPOINT": "0.0.0.0:3000"}, 64),
        ({"AWS_LAMBDA_HTTP_ENDPOINT": "0.0.0.0:3000", "AWS_LAMBDA_MAX_CONCURRENCY": "8"}, 8),
        ({"AWS_LAMBDA_MAX_CONCURRENCY": "many"}, 1),
        ({"AWS_LAMBDA_MAX_CONCURRENCY": "0"}, 1),
        ({"AWS_LAMBDA_MAX_CONCURRENCY": "16", "LAMBDA_POOL_MAX_SIZE": "3"}, 3),
    ],
)
def test_max_size_follows_what_may_run_at_once(
    said: dict[str, str], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert lambda_pool.Pool("postgresql://h/d").config.max_size == size


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("PASS", "PASSWORD"),
        ("PASSWD", "PASSWORD"),
        ("PASSWROD", "PASSWORD"),
        ("PASS_WORD", "PASSWORD"),
        ("USERNAME", "USER"),
        ("USER_NAME", "USER"),
        ("USR", "USER"),
        ("HOSTNAME", "HOST"),
        ("ENDPOINT", "HOST"),
        ("HSOT", "HOST"),
        ("PROT", "PORT"),
        ("DBNAME", "DATABASE"),
        ("DATABSE", "DATABASE"),
        ("URI", "URL"),
        ("SECRET_ARN", "SECRET_ID"),
        ("SSL", "SSLMODE"),
        ("SSL_MODE", "SSLMODE"),
        ("SSL_CA", "SSLROOTCERT"),
        ("TIMEOUTS", "TIMEOUT"),
        ("MAXSIZE", "MAX_SIZE"),
        ("CONN_TIMEOUT", "CONNECT_TIMEOUT"),
    ],
)
def test_a_near_miss_is_told_under_every_prefix(name: str, ours: str) -> None:
    for prefix in ("DB_", "LAMBDA_POOL_"):
        environ = {f"{prefix}ENGINE": "postgresql", f"{prefix}RESET": "session", f"{prefix}{name}": "s3cr3t"}
        with pytest.raises(ConfigError) as caught:
            config.read_environment(prefix, environ)
        assert str(caught.value) == (f"{prefix}{name} is not a variable of lambda_pool: did you mean {prefix}{ours}?")


@pytest.mark.parametrize(
    ("name", "set_too"),
    [
        ("PASS", "PASSWORD"),
        ("PASS", "SECRET_ID"),
        ("USERNAME", "USER"),
        ("DBNAME", "NAME"),
        ("DSN", "HOST"),
        ("ENDPOINT", "URL"),
        ("SECRET_ARN", "PASSWORD"),
    ],
)
def test_another_word_for_what_is_given_as_well_may_stay(name: str, set_too: str) -> None:
    """Whoever is told of a name sets the right one, and the function's own code may need the other."""
    environ = {f"DB_{set_too}": "x", f"DB_{name}": "y"}
    assert config.read_environment("DB_", environ)
    with pytest.raises(ConfigError, match=f"DB_{name} is not a variable"):
        config.read_environment("DB_", {**environ, f"DB_{set_too}": ""})
    with pytest.raises(ConfigError, match=f"LAMBDA_POOL_{name} is not a variable"):
        config.read_environment(environ={f"LAMBDA_POOL_{set_too}": "x", f"LAMBDA_POOL_{name}": "y"})


@pytest.mark.parametrize(
    "name",
    [
        "POOL_CLASS",
        "POOL_SIZE",
        "POOL",
        "SCHEMA",
        "READER_HOST",
        "ADMIN_USER",
        "ROOT_PASSWORD",
        "PATH",
        "DRIVER",
        "URL_RO",
    ],
)
def test_what_belongs_to_others_is_theirs_under_a_prefix_of_ones_own(name: str) -> None:
    own = {"HOST": "h", "PORT": "5432", "USER": "app", "DATABASE": "orders", name: "x"}
    read = config.read_environment("DB_", {f"DB_{key}": value for key, value in own.items()})
    assert dict(read.parts) == {"host": "h", "port": "5432", "user": "app", "database": "orders"}
    assert not read.options
    with pytest.raises(ConfigError, match=f"LAMBDA_POOL_{name} is not a variable of lambda_pool"):
        config.read_environment(environ={f"LAMBDA_POOL_{key}": value for key, value in own.items()})


def test_an_empty_prefix() -> None:
    with pytest.raises(ConfigError, match="the prefix '' is not valid: give what your variables begin with"):
        lambda_pool.Pool.from_env("")


def test_a_url_as_a_prefix() -> None:
    with pytest.raises(ConfigError, match=r"^the prefix is not valid: it is a URL\. Give what"):
        lambda_pool.Pool.from_env("postgresql://app:hush@h/d")


@pytest.mark.parametrize("prefix", ["DB", "db", "db_", "Db_"])
def test_a_prefix_that_is_nearly_right(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_HOST", "localhost")
    with pytest.raises(ConfigError, match=f"the prefix '{prefix}' is not valid: .* so write DB_$"):
        lambda_pool.Pool.from_env(prefix)


@pytest.mark.parametrize(("more", "database", "name"), [({}, "orders", "orders"), ({"DATABASE": "o"}, "o", "orders")])
def test_a_functions_own_name_is_the_databases(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str], database: str, name: str
) -> None:
    for key, value in {"ENGINE": "postgresql", "HOST": "localhost", "USER": "app", "NAME": "orders", **more}.items():
        monkeypatch.setenv(f"DB_{key}", value)
    pool = lambda_pool.Pool.from_env("DB_")
    assert (pool.config.url.database, pool.config.name) == (database, name)
