"""What DATABASES may say, what is refused, and what the environment says instead."""

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

import lambda_pool
from lambda_pool import IamToken
from lambda_pool.django import SettingsError, handler
from tests.contract.conftest import Database
from tests.frameworks.django.conftest import Use, described, install
from tests.frameworks.django.shop.models import Order
from tests.support.runtime_api import ROOT


def entry(**changes: Any) -> dict[str, Any]:
    base = {
        "ENGINE": "lambda_pool.django.postgresql",
        "HOST": "db.example",
        "USER": "app",
        "PASSWORD": "s3cret-word",
        "NAME": "orders",
    }
    return {**base, **changes}


def pool_options(**options: Any) -> dict[str, Any]:
    return {"OPTIONS": {"lambda_pool": options}}


MYSQL = {"ENGINE": "lambda_pool.django.mysql"}

WRONG = [
    ({"CONN_MAX_AGE": "sixty"}, "CONN_MAX_AGE"),
    ({"CONN_MAX_AGE": "60"}, "CONN_MAX_AGE"),
    ({"CONN_MAX_AGE": -1}, "CONN_MAX_AGE"),
    ({"CONN_MAX_AGE": False}, "CONN_MAX_AGE"),
    ({"HOST": "postgresql://u:s3cret-word@h/d"}, "HOST"),
    ({"HOST": "a,,b"}, "HOST"),
    ({"PORT": "fifty"}, "PORT"),
    ({"PORT": 0}, "PORT"),
    ({"USER": 7}, "USER"),
    ({"PASSWORD": 7}, "PASSWORD"),
    ({"OPTIONS": {"pool": True}}, "'pool'"),
    ({"OPTIONS": {"pool": {"max_size": 4}}}, "'pool'"),
    ({"OPTIONS": {"lambda_pool": 4}}, "lambda_pool"),
    ({"OPTIONS": {"lambda_pool": {4: 4}}}, "lambda_pool"),
    ({"OPTIONS": {"sslmode": "perhaps"}}, "sslmode"),
    ({"OPTIONS": {"connect_timeout": "soon"}}, "connect_timeout"),
    ({"OPTIONS": {"nonsense": 1}}, "nonsense"),
    ({"OPTIONS": {"ssl": {"ca": "/ca.pem"}}}, "ssl"),
    ({"OPTIONS": {"service": "x"}}, "service"),
    ({"OPTIONS": {"autocommit": True}}, "OPTIONS holds 'autocommit': write AUTOCOMMIT in DATABASES"),
    ({"OPTIONS": {"dbname": "x"}}, "OPTIONS holds 'dbname': write NAME in DATABASES"),
    ({**MYSQL, "OPTIONS": {"passwd": "s3cret-word"}}, "OPTIONS holds 'passwd': write PASSWORD in DATABASES"),
    ({**MYSQL, "OPTIONS": {"unix_socket": "/x"}}, "OPTIONS holds 'unix_socket': write HOST in DATABASES"),
    ({"OPTIONS": {"hostaddr": "10.0.0.7"}}, "OPTIONS holds 'hostaddr': write HOST in DATABASES"),
    ({"OPTIONS": {"statement_timeout": 5}}, "is written as {'options': '-c NAME=VALUE'}"),
    (
        {"HOST": "", "USER": "", "PASSWORD": "", "OPTIONS": {"service": "x"}},
        "'service': a service may name another server",
    ),
    (
        {**MYSQL, "HOST": "", "USER": "", "PASSWORD": "", "OPTIONS": {"read_default_file": "/etc/my.cnf"}},
        "'read_default_file'",
    ),
    ({**MYSQL, "OPTIONS": {"ssl": {"cipher": "x"}}}, "ssl"),
    ({**MYSQL, "OPTIONS": {"ssl": True}}, "ssl"),
    ({**MYSQL, "OPTIONS": {"read_default_file": "/etc/my.cnf"}}, "read_default_file"),
    ({**MYSQL, "OPTIONS": {"ssl_disabled": True}}, "OPTIONS holds 'ssl_disabled': write sslmode=disable in OPTIONS"),
    ({**MYSQL, "OPTIONS": {"isolation_level": "sloppy"}}, "isolation"),
    ({"OPTIONS": {"isolation_level": 17}}, "isolation"),
    (pool_options(max_sise=2), "max_sise"),
    (
        pool_options(colour="red"),
        "write OPTIONS={'colour': ...}; .*cancel_before_deadline, connect_args, connect_timeout",
    ),
    (pool_options(max_size=0), "max_size"),
    (pool_options(readonly="yes"), "readonly"),
    (pool_options(host="h"), "HOST"),
    (pool_options(database="d"), "NAME"),
    (pool_options(autocommit=True), "AUTOCOMMIT"),
    (pool_options(url="postgresql://h/d"), "DATABASES"),
    (pool_options(auth="iam"), "auth"),
    (pool_options(endpoint=IamToken), "endpoint"),
    (pool_options(observers=[1]), "observers"),
    (pool_options(readonly=True, pooled=True), "readonly"),
]


@pytest.mark.parametrize(("changes", "named"), WRONG)
def test_a_wrong_setting_is_named(changes: dict[str, Any], named: str) -> None:
    connection = install("reader", entry(**changes))
    with pytest.raises(ImproperlyConfigured, match=named) as caught:
        connection.ensure_connection()
    assert "s3cret-word" not in str(caught.value)
    if "isolation" not in named:
        assert isinstance(caught.value, SettingsError)
        assert isinstance(caught.value, lambda_pool.ConfigError)
        assert "DATABASES['reader']" in str(caught.value)


def test_what_the_settings_say_reaches_the_pool() -> None:
    iam = IamToken(region="eu-west-1")
    options = {"max_size": 3, "auth": iam, "name": "shop", "metrics": "off", "timeout": 2}
    changes = {"PORT": "5433", "PASSWORD": "", "CONN_MAX_AGE": 600}
    connection = install("reader", entry(**changes, OPTIONS={"sslmode": "verify-ca", "lambda_pool": options}))
    core = connection.home().core
    config = core.config
    assert (config.url.host, config.url.port, config.url.user, config.url.database) == (
        "db.example",
        5433,
        "app",
        "orders",
    )
    assert (config.max_size, config.timeout, config.name, config.max_lifetime) == (3, 2.0, "shop", 600.0)
    assert config.url.sslmode == "verify-ca"
    assert config.autocommit is True
    assert core.connector.auth is iam
    assert connection.home() is install("reader", entry(**changes, OPTIONS=connection.settings_dict["OPTIONS"])).home()


def test_several_hosts() -> None:
    connection = install("reader", entry(HOST="one,two:5433", PORT=5432))
    assert connection.home().pool.config.url.addresses == (("one", 5432), ("two", 5433))


@pytest.mark.parametrize(
    "given",
    [
        {"ssl": {"ca": "/ca.pem", "cert": "/cert.pem", "key": "/key.pem"}},
        {"ssl_ca": "/ca.pem", "ssl_cert": "/cert.pem", "ssl_key": "/key.pem"},
    ],
)
def test_mysqls_words_for_tls(given: dict[str, Any]) -> None:
    connection = install("reader", entry(**MYSQL, OPTIONS={**given, "ssl_mode": "VERIFY_CA"}))
    url = connection.home().pool.config.url
    assert (url.sslmode, url.sslrootcert) == ("verify-ca", "/ca.pem")
    assert (url.sslcert, url.sslkey) == ("/cert.pem", "/key.pem")


@pytest.mark.parametrize("engine", [{}, MYSQL])
def test_what_is_none_is_as_if_it_was_not_there(engine: dict[str, Any]) -> None:
    """As os.environ.get() gives it."""
    left_out = {"HOST": "", "PORT": "", "PASSWORD": ""}
    urls = [
        install("reader", entry(**engine, **said)).home().pool.config.url
        for said in (left_out, dict.fromkeys(left_out))
    ]
    assert urls[0] == urls[1]
    connections["reader"].get_connection_params()


@pytest.mark.parametrize("age", [None, 0, 0.0, 3600])
def test_old_settings_for_persistence_are_understood(use: Use, database: Database, age: Any) -> None:
    changed = {**described(database), "CONN_MAX_AGE": age, "CONN_HEALTH_CHECKS": True}
    connection = use(entry=changed)
    for _ in range(3):
        Order.objects.count()
        connection.close_if_unusable_or_obsolete()
        assert connection.connection is None
    assert connection.home().pool.stats().opened == 1
    assert connection.home().pool.stats().pings == 0


def test_how_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each thread where Django has threads. In Lambda, and if the option says so, it is as everywhere else."""
    assert install("reader", entry()).home().pool.config.max_size == 100
    monkeypatch.setenv("LAMBDA_POOL_MAX_SIZE", "2")
    assert install("reader", entry(NAME="a")).home().pool.config.max_size == 2
    monkeypatch.delenv("LAMBDA_POOL_MAX_SIZE")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv("LAMBDA_POOL_GRACEFUL_SHUTDOWN", "false")
    assert install("reader", entry(NAME="b")).home().pool.config.max_size == 1


def test_in_lambda_a_wrong_setting_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "function")
    monkeypatch.setenv("LAMBDA_POOL_GRACEFUL_SHUTDOWN", "false")
    with pytest.raises(SettingsError, match="max_sise"):
        install("reader", entry(**pool_options(max_sise=2)))


@pytest.mark.parametrize("name", ["", "other"])
def test_the_environment_says_where(use: Use, database: Database, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", database.url)
    monkeypatch.setenv("LAMBDA_POOL_METRICS", "off")
    monkeypatch.setenv("LAMBDA_POOL_TIMEOUT", "4")
    connection = use(entry={"ENGINE": f"lambda_pool.django.{database.engine}", "NAME": name})
    config = connection.home().pool.config
    assert config.timeout == 4.0
    assert config.url.database == (name or database.server.database), "tests run on a database of their own"
    if not name:
        assert Order.objects.count() == 0
        assert connection.creation._get_test_db_name() == f"test_{database.server.database}"


def test_the_environment_is_for_the_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_URL", "mysql://app@db.example/orders")
    with pytest.raises(SettingsError, match=r"mysql.*postgresql"):
        install("reader", {"ENGINE": "lambda_pool.django.postgresql"}).ensure_connection()
    with pytest.raises(SettingsError, match="sslmode"):
        install("reader", {**MYSQL, "OPTIONS": {"sslmode": "require"}}).ensure_connection()


def test_nobody_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("LAMBDA_POOL_") or variable == "DATABASE_URL":
            monkeypatch.delenv(variable)
    with pytest.raises(SettingsError, match="LAMBDA_POOL_URL"):
        install("reader", {"ENGINE": "lambda_pool.django.postgresql"}).ensure_connection()


# --- handler ----------------------------------------------------------------------------------------------------------


def with_connection(event: object, context: object, conn: object) -> None:
    """As on a pool's own decorator."""


async def coroutine(event: object, context: object) -> None:
    """Handlers that Lambda does not call."""


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (with_connection, "conn"),
        (coroutine, "async def"),
        (4, "function"),
        (dict, "class|callable"),
        (None, "function"),
    ],
)
def test_no_handler(function: Any, named: str) -> None:
    with pytest.raises(lambda_pool.ConfigError, match=named):
        handler(function)


# --- MySQLdb ----------------------------------------------------------------------------------------------------------


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_mysqldb_is_there_for_django_alone() -> None:
    """Nobody else finds a MySQLdb afterwards."""
    script = """
    import sys
    from django.conf import settings
    settings.configure()
    from lambda_pool.django.mysql import base
    import pymysql, django.db.backends.mysql.base as own
    assert own.Database.Error is pymysql.Error
    assert not [name for name in sys.modules if name.startswith("MySQLdb")]
    try:
        import MySQLdb
    except ImportError:
        print("none")
    """
    assert run(script) == "none"


def test_a_real_mysqlclient_stays_djangos() -> None:
    """If one is installed, Django's own engine uses it as always, and ours uses PyMySQL."""
    script = """
    import sys, types, pymysql
    from django.conf import settings
    settings.configure()
    real = types.ModuleType("MySQLdb")
    real.__dict__.update(version_info=(2, 2, 8), __version__="2.2.8", OperationalError=type("Theirs", (Exception,), {}))
    real.Error = real.DatabaseError = real.NotSupportedError = real.OperationalError
    constants, converters = types.ModuleType("MySQLdb.constants"), types.ModuleType("MySQLdb.converters")
    constants.CLIENT, constants.FIELD_TYPE = pymysql.constants.CLIENT, pymysql.constants.FIELD_TYPE
    converters.conversions = {}
    sys.modules.update({"MySQLdb": real, "MySQLdb.constants": constants, "MySQLdb.converters": converters})
    from lambda_pool.django.mysql import base
    import django.db.backends.mysql.base as own
    assert own.Database is real and sys.modules["MySQLdb"] is real
    assert base.DatabaseWrapper.Database is pymysql
    print("theirs")
    """
    assert run(script) == "theirs"


def test_without_django_its_extra_is_named() -> None:
    script = """
    import sys
    sys.modules["django"] = None
    import lambda_pool
    try:
        import lambda_pool.django
    except lambda_pool.ConfigError as error:
        print(error)
    """
    assert "lambda-pool[django]" in run(script)


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    """No test leaves its aliases behind."""
    from lambda_pool.django import pools

    known = len(pools._made)
    yield
    del pools._made[known:]
    connections["reader"].close()
