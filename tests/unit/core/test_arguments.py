"""Every argument that a driver has is known: passed on where its value fits, or refused at Pool() with what to write.

The drivers themselves are asked what they have, so that a new one in a later version fails here and is decided on.
"""

import inspect
from typing import Any
from urllib.parse import quote

import psycopg
import pymysql
import pytest
from psycopg.pq import Conninfo

import lambda_pool
from lambda_pool import ConfigError, Pool
from lambda_pool.config import OPTIONS
from lambda_pool.engines.arguments import Arguments
from lambda_pool.engines.psycopg.arguments import ARGUMENTS as LIBPQ
from lambda_pool.engines.psycopg.arguments import OWN_ARGUMENTS
from lambda_pool.engines.pymysql.arguments import ARGUMENTS as PYMYSQL

URLS = {"postgresql": "postgresql://app@db.example/orders", "mysql": "mysql://app@db.example/orders"}
TABLES = {"postgresql": LIBPQ, "mysql": PYMYSQL}
CANARY = "c4n4ry"


def keywords() -> dict[str, set[str]]:
    """What the installed drivers take."""
    libpq = {each.keyword.decode() for each in Conninfo.get_defaults()}
    connect = inspect.signature(psycopg.Connection.connect).parameters
    own = {name for name, each in connect.items() if each.kind is not inspect.Parameter.VAR_KEYWORD}
    mysql = set(inspect.signature(pymysql.connections.Connection.__init__).parameters) - {"self"}
    return {"postgresql": libpq | own, "mysql": mysql}


@pytest.mark.parametrize("engine", TABLES)
def test_every_argument_of_the_installed_driver_is_known(engine: str) -> None:
    assert keywords()[engine] - TABLES[engine].names == set()


def test_psycopgs_own_arguments_are_all_of_them() -> None:
    libpq = {each.keyword.decode() for each in Conninfo.get_defaults()}
    assert keywords()["postgresql"] - libpq - {"conninfo"} == set(OWN_ARGUMENTS)


@pytest.mark.parametrize("engine", TABLES)
def test_each_has_one_place(engine: str) -> None:
    table = TABLES[engine]
    groups = [set(table.passed), set(table.objects), set(table.refused)]
    assert sum(map(len, groups)) == len(table.names)


# --- passed -----------------------------------------------------------------------------------------------------------

# A text that each takes in a URL, and one that it does not (None: any text will do).
PASSED: dict[str, dict[str, tuple[str, str | None]]] = {
    "postgresql": {
        "application_name": ("orders", None),
        "channel_binding": ("require", "yes"),
        "client_encoding": ("utf8", None),
        "fallback_application_name": ("orders", None),
        "gssdelegation": ("0", "no"),
        "gssencmode": ("disable", "prefer"),
        "gsslib": ("gssapi", None),
        "keepalives": ("1", "true"),
        "keepalives_count": ("3", "-1"),
        "keepalives_idle": ("30", "soon"),
        "keepalives_interval": ("10", "1.5"),
        "krbsrvname": ("postgres", None),
        "load_balance_hosts": ("random", "1"),
        "max_protocol_version": ("latest", None),
        "min_protocol_version": ("3.0", None),
        "oauth_client_id": ("x", None),
        "oauth_client_secret": ("x", None),
        "oauth_issuer": ("https://issuer.example", None),
        "oauth_scope": ("x", None),
        "options": ("-c statement_timeout=5000", None),
        "passfile": ("/nowhere/passfile", None),
        "prepare_threshold": ("none", "never"),
        "require_auth": ("scram-sha-256", None),
        "requirepeer": ("postgres", None),
        "ssl_max_protocol_version": ("TLSv1.3", "TLSv1.1"),
        "ssl_min_protocol_version": ("TLSv1.3", "TLSv1"),
        "sslcertmode": ("allow", "never"),
        "sslcompression": ("0", "no"),
        "sslcrl": ("/nowhere/crl.pem", None),
        "sslcrldir": ("/nowhere", None),
        "sslnegotiation": ("direct", "fast"),
        "sslsni": ("1", "yes"),
        "target_session_attrs": ("read-write", "writer"),
        "tcp_user_timeout": ("5000", "5s"),
    },
    "mysql": {
        "bind_address": ("127.0.0.1", None),
        "binary_prefix": ("true", "maybe"),
        "charset": ("utf8mb4", "utf-16"),
        "client_flag": ("65536", "MULTI"),
        "collation": ("utf8mb4_bin", None),
        "init_command": ("set @a = 1", None),
        "local_infile": ("no", "never"),
        "max_allowed_packet": ("1048576", "1M"),
        "program_name": ("orders", None),
        "read_timeout": ("7.5", "0"),
        "server_public_key": ("-----BEGIN PUBLIC KEY-----", None),
        "sql_mode": ("ANSI", None),
        "use_unicode": ("1", "2"),
        "write_timeout": ("5", "soon"),
    },
}
KNOWN_TO_LIBPQ = {each.keyword.decode() for each in Conninfo.get_defaults()} | {*OWN_ARGUMENTS}
EACH_PASSED = [(engine, name) for engine, names in PASSED.items() for name in names]


@pytest.mark.parametrize("engine", TABLES)
def test_each_that_is_passed_is_tried_here(engine: str) -> None:
    assert set(PASSED[engine]) == set(TABLES[engine].passed)


@pytest.mark.parametrize(("engine", "name"), EACH_PASSED)
def test_a_value_that_fits_is_passed(engine: str, name: str) -> None:
    good, bad = PASSED[engine][name]
    if engine == "postgresql" and name not in KNOWN_TO_LIBPQ:  # psycopg in pure Python, on an older system
        with pytest.raises(ConfigError, match=f"{name} is not known to libpq"):
            Pool(f"{URLS[engine]}?{name}={quote(good)}")
        return
    Pool(f"{URLS[engine]}?{name}={quote(good)}")
    Pool(URLS[engine], connect_args={name: good})
    if bad is not None:
        said = rf"{name} in the URL's query is not valid: it must be "
        with pytest.raises(ConfigError, match=said):
            Pool(f"{URLS[engine]}?{name}={quote(bad)}")
    with pytest.raises(ConfigError, match=rf"{name} in connect_args is not valid: it must be ") as caught:
        Pool(URLS[engine], connect_args={name: [CANARY]})
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize(("engine", "name"), EACH_PASSED)
def test_a_text_that_cannot_be_sent_is_refused(engine: str, name: str) -> None:
    for text in ("a\0 sslmode=disable", "\udcff"):
        with pytest.raises(ConfigError, match=f"{name} in connect_args is not valid"):
            Pool(URLS[engine], connect_args={name: text})


@pytest.mark.parametrize(
    ("engine", "name", "given", "told"),
    [
        ("postgresql", "prepare_threshold", "5", 5),
        ("postgresql", "prepare_threshold", "none", None),
        ("postgresql", "keepalives", 1, "1"),
        ("postgresql", "tcp_user_timeout", 5000, 5000),
        ("mysql", "charset", "UTF-8", "utf8mb4"),
        ("mysql", "charset", "latin1", "latin1"),
        ("mysql", "read_timeout", "7.5", 7.5),
        ("mysql", "client_flag", "65536", 65536),
        ("mysql", "local_infile", "off", False),
        ("mysql", "local_infile", True, True),
        ("mysql", "server_public_key", "-----BEGIN", b"-----BEGIN"),
        ("mysql", "server_public_key", b"-----BEGIN", b"-----BEGIN"),
    ],
)
def test_what_the_driver_is_told(engine: str, name: str, given: Any, told: Any) -> None:
    """The same from a URL, where all is text, and from code."""
    table: Arguments = TABLES[engine]
    assert table.check(engine, {}, {name: given}) == {name: told}
    if isinstance(given, str):
        assert table.check(engine, {name: given}, {}) == {name: told}


def test_connect_args_win_over_the_url() -> None:
    assert LIBPQ.check("postgresql", {"keepalives": "1"}, {"keepalives": 0}) == {"keepalives": "0"}


def test_encryption_is_not_asked_for_by_a_flag() -> None:
    with pytest.raises(ConfigError, match=r"client_flag in connect_args.*CLIENT\.SSL.*sslmode"):
        Pool(URLS["mysql"], connect_args={"client_flag": pymysql.constants.CLIENT.SSL})


# --- objects ----------------------------------------------------------------------------------------------------------

OBJECTS: dict[str, dict[str, Any]] = {
    "postgresql": {
        "context": psycopg,
        "cursor_factory": psycopg.ClientCursor,
        "row_factory": psycopg.rows.dict_row,
    },
    "mysql": {
        "auth_plugin_map": {"dialog": object},
        "conv": pymysql.converters.conversions,
        "cursorclass": pymysql.cursors.DictCursor,
    },
}


@pytest.mark.parametrize("engine", TABLES)
def test_objects_come_from_code_alone(engine: str) -> None:
    assert set(OBJECTS[engine]) == set(TABLES[engine].objects)
    for name, good in OBJECTS[engine].items():
        Pool(URLS[engine], connect_args={name: good})
        with pytest.raises(ConfigError, match=rf"{name}.* not a string: pass it in connect_args"):
            Pool(f"{URLS[engine]}?{name}=DictCursor")
        with pytest.raises(ConfigError, match=rf"{name} in connect_args is not valid"):
            Pool(URLS[engine], connect_args={name: "DictCursor"})


@pytest.mark.parametrize(("engine", "name"), [("postgresql", "cursor_factory"), ("mysql", "cursorclass")])
def test_a_cursor_of_another_driver_is_refused_at_pool(engine: str, name: str) -> None:
    class RealDictCursor:
        """Such as psycopg2's, or mysqlclient's."""

    with pytest.raises(ConfigError, match=f"{name} in connect_args is not valid: it must be (psycopg|pymysql)"):
        Pool(URLS[engine], connect_args={name: RealDictCursor})


class Order:
    """The class of a row."""


class ByName:
    """A row factory that is a class: called with the cursor, and its object with each row."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self.names = [column.name for column in cursor.description or ()]

    def __call__(self, values: Any) -> dict[str, Any]:
        return dict(zip(self.names, values, strict=True))


@pytest.mark.parametrize("wrong", [dict, tuple, psycopg.rows.DictRow, Order])
def test_the_class_of_a_row_is_refused_as_a_row_factory(wrong: Any) -> None:
    told = r"row_factory in connect_args is not valid: .* psycopg\.rows\.dict_row .*, not the class of a row"
    with pytest.raises(ConfigError, match=told):
        Pool(URLS["postgresql"], connect_args={"row_factory": wrong})


@pytest.mark.parametrize("right", [psycopg.rows.class_row(Order), ByName])
def test_other_row_factories_are_taken(right: Any) -> None:
    Pool(URLS["postgresql"], connect_args={"row_factory": right})


@pytest.mark.parametrize("server", [False, True])
@pytest.mark.parametrize(("prefix", "other"), [("", "Async"), ("Async", "")])
def test_a_cursor_of_psycopgs_other_half_is_refused_at_pool(prefix: str, other: str, server: bool) -> None:
    kind = getattr(lambda_pool, f"{prefix}Pool")
    wrong = getattr(psycopg, f"{prefix}ServerCursor" if server else f"{other}ClientCursor")
    told = rf"cursor_factory in connect_args .* {kind.__name__} needs psycopg\.{prefix}Cursor .* not {wrong.__name__}"
    with pytest.raises(ConfigError, match=told):
        kind(URLS["postgresql"], connect_args={"cursor_factory": wrong})
    kind(URLS["postgresql"], connect_args={"cursor_factory": getattr(psycopg, f"{prefix}ClientCursor")})


# --- refused ----------------------------------------------------------------------------------------------------------

# What must never be told, and the word that says what to write instead.
REFUSED: dict[str, dict[str, str]] = {
    "postgresql": {
        "host": r"Pool\(host=",
        "hostaddr": "URL's query",
        "port": r"Pool\(host=",
        "user": "user:password@",
        "password": r"password=\.\.\.\)",
        "dbname": "/database",
        "database": "/database",
        "sslmode": "URL's query",
        "sslrootcert": "URL's query",
        "sslcert": "URL's query",
        "sslkey": "URL's query",
        "sslpassword": "URL's query",
        "pooled": "URL's query",
        "service": "PGSERVICE",
        "servicefile": "PGSERVICE",
        "sslkeylogfile": "decrypt the connection",
        "requiressl": "sslmode=require",
        "replication": "not for replication",
        "scram_client_key": "write the password",
        "scram_server_key": "write the password",
        "conninfo": "URL",
        "connect_timeout": "LAMBDA_POOL_CONNECT_TIMEOUT",
        "autocommit": r"Pool\(\.\.\., autocommit=\.\.\.\)",
    },
    "mysql": {
        "host": r"Pool\(host=",
        "port": r"Pool\(host=",
        "user": "user:password@",
        "password": r"password=\.\.\.\)",
        "passwd": r"password=\.\.\.\)",
        "database": "/database",
        "db": "/database",
        "unix_socket": r"\?unix_socket=/path",
        "ssl": "sslmode, sslrootcert",
        "ssl_ca": "sslrootcert=/path",
        "ssl_cert": "sslcert=/path",
        "ssl_key": "sslkey=/path",
        "ssl_key_password": "sslpassword=",
        "ssl_disabled": "sslmode=disable",
        "ssl_verify_cert": "sslmode=verify-full",
        "ssl_verify_identity": "sslmode=verify-full",
        "read_default_file": "into the URL",
        "read_default_group": "into the URL",
        "defer_connect": "when it connects",
        "compress": "does not support",
        "named_pipe": "does not support",
        "connect_timeout": "LAMBDA_POOL_CONNECT_TIMEOUT",
        "autocommit": r"Pool\(\.\.\., autocommit=\.\.\.\)",
    },
}


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, names in REFUSED.items() for name in names])
def test_what_would_overrule_the_pool_is_refused(engine: str, name: str) -> None:
    for value in (CANARY, None, True, {"ca": CANARY}):
        with pytest.raises(ConfigError, match=f"connect_args holds '{name}': .*{REFUSED[engine][name]}") as caught:
            Pool(URLS[engine], connect_args={name: value})
        assert CANARY not in repr(caught.value)


@pytest.mark.parametrize("engine", TABLES)
def test_each_that_is_refused_is_tried_here(engine: str) -> None:
    """But for the pool's options and the other driver's words, of which all engines say the same."""
    own = set(TABLES[engine].refused) & keywords()[engine]
    assert own <= set(REFUSED[engine])


@pytest.mark.parametrize("engine", TABLES)
@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_of_the_pool_is_no_argument_of_the_driver(engine: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"connect_args holds '{option}'.*LAMBDA_POOL_{option.upper()}"):
        Pool(URLS[engine], connect_args={option: 1})


# --- unknown ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "name", "said"),
    [
        ("postgresql", "aplication_name", "libpq does not know: did you mean application_name"),
        ("postgresql", "row_factry", "did you mean row_factory"),
        ("postgresql", "statement_timeout", "ALTER ROLE"),
        ("postgresql", "work_mem", "take it out.*options=-c"),
        ("postgresql", "cursorclass", "libpq does not know"),
        ("mysql", "red_timeout", "PyMySQL does not know: did you mean read_timeout"),
        ("mysql", "application_name", "program_name"),
        ("mysql", "xyzzy", "take it out"),
        ("mysql", "hostaddr", "PyMySQL does not know"),
        ("mysql", "service", "PyMySQL does not know"),
    ],
)
def test_one_that_nobody_knows_is_refused_at_pool(engine: str, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"connect_args holds '{name}'.*{said}") as caught:
        Pool(URLS[engine], connect_args={name: CANARY})
    assert CANARY not in repr(caught.value)
    with pytest.raises(ConfigError, match=f"the URL's query holds '{name}'.*{said}") as caught:
        Pool(f"{URLS[engine]}?{name}={CANARY}")
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize("engine", TABLES)
def test_one_that_the_installed_driver_is_too_old_for(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "postgresql":
        defaults = [each for each in Conninfo.get_defaults() if each.keyword != b"sslcertmode"]
        monkeypatch.setattr(Conninfo, "get_defaults", lambda: defaults)
        with pytest.raises(ConfigError, match=r"sslcertmode is not known to libpq \d\d"):
            Pool(f"{URLS[engine]}?sslcertmode=allow")
    else:
        known = pymysql.connections.Connection.__init__.__kwdefaults__ or {}
        monkeypatch.setattr("lambda_pool.engines.pymysql.engine.MysqlEngine.load", lambda self: None)
        monkeypatch.delitem(known, "sql_mode")
        with pytest.raises(ConfigError, match="sql_mode is not known to PyMySQL"):
            Pool(f"{URLS[engine]}?sql_mode=ANSI")


# --- behind a pooler --------------------------------------------------------------------------------------------------

PROXY = "orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com"


@pytest.mark.parametrize(
    ("argument", "said"), [("options=-c%20a%3D1", "ALTER ROLE"), ("prepare_threshold=5", "leave it out")]
)
def test_what_no_pooler_takes_is_refused_at_pool(argument: str, said: str) -> None:
    name, _, value = argument.partition("=")
    for url in (f"postgresql://app@{PROXY}/d", "postgresql://app@h/d?pooled=true", "postgresql://app@h/d?pgbouncer=1"):
        with pytest.raises(ConfigError, match=said):
            Pool(f"{url}{'&' if '?' in url else '?'}{argument}")
        with pytest.raises(ConfigError, match=said):
            Pool(url, connect_args={name: value})
    Pool(f"postgresql://app@h/d?{argument}")
    Pool("postgresql://app@h/d?pooled=true&prepare_threshold=none")


def test_a_proxy_that_is_recognised_by_its_name_refuses_a_session_reset_at_pool() -> None:
    with pytest.raises(ConfigError, match=r"reset='session'.*SET LOCAL"):
        Pool(f"mysql://app@{PROXY}/d", reset="session")


def test_one_that_is_found_later_is_asked_the_same() -> None:
    """The RDS API, or a secret, may say so only when a connection is made."""
    from lambda_pool.endpoints.base import Endpoint, FixedEndpoint

    class Found(FixedEndpoint):
        pass

    source = Found(Endpoint("db.example", 5432, proxy=True))
    pool = Pool("postgresql://app@/d", endpoint=source, connect_args={"prepare_threshold": 5}, observers=())
    with pytest.raises(ConfigError, match="prepare_threshold"), pool.connection():
        pass
    assert lambda_pool.Pool("postgresql://app@/d", endpoint=source).config.url.pooled is False
