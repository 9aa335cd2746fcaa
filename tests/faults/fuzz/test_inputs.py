"""Whatever is in URLs, variables, options, contexts and API answers gives a valid object, or an error that names it."""

import json
import string
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import quote

import psycopg
import pytest
from botocore.loaders import Loader
from botocore.model import ListShape, ServiceModel, Shape, StructureShape
from hypothesis import example, given
from hypothesis import strategies as st

import lambda_pool
from lambda_pool import ConfigError, config, tls
from lambda_pool.config import synonyms
from lambda_pool.endpoints.answers import read_cluster, read_proxy, read_proxy_reader
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.engines.arguments import Arguments
from lambda_pool.engines.psycopg.arguments import ARGUMENTS as LIBPQ
from lambda_pool.engines.pymysql.arguments import ARGUMENTS as PYMYSQL
from lambda_pool.errors import EndpointError
from lambda_pool.invocation import Deadline, remaining
from tests.faults.fuzz.effort import effort
from tests.faults.fuzz.verdict import shown
from tests.support.damaged import damaged
from tests.support.invoked import invoked

CANARY = "c4n4ry"
_SPECIAL = ":/?#@%&=+[], \\'\"\0\n\u00e9\U0001f600\u0661"

_pieces = st.text(alphabet=_SPECIAL + "aB3", max_size=5)
_engines = st.sampled_from(["postgresql", "mysql"])
_hosts = st.sampled_from(
    ["h", "db.example", "[::1]", "", "10.0.0.1", "[fe80::1%25eth0]", "/run", "h,i", "\u00fc.example"]
)
_queries = st.lists(
    st.sampled_from(
        [
            "",
            "?",
            "host=/run",
            "host=@x",
            "unix_socket=/s",
            "sslmode=require",
            "sslmode=",
            "pooled=1",
            "a",
            "=",
            "a=1",
            "a=2",
        ]
    ),
    max_size=3,
).map("&".join)


# --- URLs -------------------------------------------------------------------------------------------------------------


@effort(1500)
@given(_engines, _pieces, _pieces, _pieces, _hosts, _pieces, _queries)
@example("postgresql", "", "1?", "", "h", "d", "")
@example("postgresql", "", "1?sslmode=", "", "h", "d", "")
@example("postgresql", "", "1/", "=1&", "h", "d", "")
@example("postgresql", "", "/x?", "", "h", "d", "")
@example("postgresql", "", "/x?sslmode=", "", "h", "d", "")
@example("postgresql", "", "1/x?host=", "", "h", "d", "")
@example("mysql", "", "1?host=", "", "h", "d", "")
@example("postgresql", "", "/", "?", "h", "=", "")
@example("postgresql", "x", "5/", "?a=", "h", "d", "")
@example("postgresql", "/3?", "", "", "h", "=", "")
@example("postgresql", "/", "?", "=", "h", "", "")
@example("postgresql", "u", "1@a/", "?a=", "h", "d", "")
def test_a_password_that_was_not_escaped_is_in_no_error(
    engine: str, user: str, before: str, after: str, host: str, database: str, query: str
) -> None:
    url = f"{engine}://{user}:{before}{CANARY}{after}@{host}/{database}?{query}"
    try:
        found = config.make(url, None, {}, {})
    except ConfigError as error:
        assert CANARY not in shown(error)
    else:
        assert CANARY not in repr(found)
        assert found.url.engine == engine


@pytest.mark.sampled(1 / 3, "5 s")
@effort(600)
@given(_engines, st.text(max_size=8), st.text(min_size=1, max_size=8), st.text(max_size=8), st.text(max_size=8))
@example("postgresql", "a\0b", "x", "d", "")
@example("postgresql", "a", "x\0y", "d", "")
@example("postgresql", "a", "x", "d\0e", "")
@example("mysql", "a\0b", "x", "d", "")
@example("postgresql", "a", "x", "d", "1\0 sslmode=disable")
def test_what_is_escaped_arrives_or_is_refused(
    engine: str, user: str, password: str, database: str, value: str
) -> None:
    """As far as the driver: libpq ends a string at a NUL, and would forget what follows, for example sslmode."""

    def escape(text: str) -> str:
        return quote(text, safe="", errors="surrogatepass")

    word = "application_name" if engine == "postgresql" else "program_name"
    url = f"{engine}://{escape(user)}:{escape(password)}@h/{escape(database)}?{word}={escape(value)}"
    try:
        found = config.make(url, None, {}, {}).url
    except ConfigError as error:
        assert any("\0" in text or not text.isprintable() for text in (user, password, database, value))
        assert "\0" in password or password not in str(error) or len(password) < 4
        return
    assert found.password is not None
    assert (found.user, found.password.reveal(), found.database) == (user, password, database)
    assert found.parameters[word] == value
    for text in (found.user, found.password.reveal(), found.database, value):
        assert "\0" not in text


_words = st.sampled_from(
    [
        *synonyms.OWN,
        *synonyms.OPTIONS,
        "ssl",
        "tls",
        "ssl_ca",
        "ssl-mode",
        "ssl_disabled",
        "ssl_verify_cert",
        "hostaddr",
    ]
)
_values = st.sampled_from(["true", "false", "0", "REQUIRED", "verify-ca", "prefer", "/ca.pem", "10", "::1"])


@effort(800)
@given(_engines, st.dictionaries(_words, _values | st.text(max_size=5), max_size=4))
def test_any_words_of_a_query_agree_or_are_refused(engine: str, pairs: dict[str, str]) -> None:
    """Encryption is never weaker than one of them says."""
    query = "&".join(f"{name}={quote(value, safe='', errors='surrogatepass')}" for name, value in pairs.items())
    try:
        url = config.make(f"{engine}://u@db.example/d?{query}", None, {}, {}).url
        chosen = tls.choose(url.host, url.sslmode, url.sslrootcert, proxy=False, required=url.encrypted).mode
    except ConfigError as error:
        assert any(word in str(error) for word in (*pairs, *synonyms.OWN, "URL"))
        return
    for name, value in pairs.items():
        if name.startswith("ssl_verify"):
            assert not tls.weaker(chosen, "verify-ca")
        if name in {"ssl", "tls"} and value == "true":
            assert not tls.weaker(chosen, "require")
        if name in {"sslmode", "ssl-mode"} and value in tls.MODES:
            assert not tls.weaker(chosen, value)
    if not any(name.startswith(("ssl", "tls")) for name in pairs):
        assert chosen == "verify-full"


@effort(800)
@given(
    st.sampled_from([("postgresql", LIBPQ), ("mysql", PYMYSQL)]),
    st.data(),
    st.text(max_size=10).map(CANARY.__add__),
)
def test_any_argument_of_a_driver_is_passed_on_or_named(
    driver: tuple[str, Arguments], data: st.DataObject, secret: str
) -> None:
    engine, table = driver
    name = data.draw(st.sampled_from(sorted(table.names)) | st.text(max_size=12))
    value = data.draw(st.just(secret) | st.just([secret]) | _odd)
    word = data.draw(st.just(secret) | st.text(max_size=10) | st.integers(-2, 99).map(str))
    for parameters, arguments in ({}, {name: value}), ({name: word}, {}):
        try:
            told = table.check(engine, parameters, arguments)
        except ConfigError as error:
            assert name in str(error) or ascii(name) in str(error)  # other characters are escaped
            assert CANARY not in shown(error)
        else:
            assert set(told) == {name}
            assert name not in table.refused


# --- options and variables --------------------------------------------------------------------------------------------

_odd: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 10**5000, float("nan"), float("inf"), -0.0, 1e-320]),
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
    st.text(max_size=10),
    st.binary(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.sets(st.integers(), max_size=2),
    st.dictionaries(st.one_of(st.text(max_size=2), st.integers()), st.none(), max_size=2),
    st.builds(object),
    st.just(int),
    st.builds(MagicMock),
)


@effort(1500)
@given(st.sampled_from(sorted(config.OPTIONS)), _odd)
@example("max_idle", [])
@example("max_size", 10**5000)
@example("min_size", 10**5000)
@example("timeout", 10**5000)
def test_an_option_of_any_type_is_taken_or_named(option: str, value: Any) -> None:
    _check_option(option, lambda: config.make("postgresql://h/d", None, {option: value}, {}))


@effort(1500)
@given(st.sampled_from(sorted(config.OPTIONS)), st.one_of(st.text(), st.text(alphabet=string.digits + ".eE+-_ ")))
@example("connect_args", "[" * 100_000)
@example("connect_args", '{"a":' * 10_000)
@example("connect_args", '{"password": "c4n4ry"')
@example("connect_args", '["c4n4ry"]')
@example("max_size", "9" * 5000)
@example("timeout", "9" * 5000)
def test_a_variable_of_any_text_is_taken_or_named(option: str, text: str) -> None:
    _check_option(option, lambda: config.make("postgresql://h/d", None, {}, {option: text}))


def _check_option(option: str, make: Callable[[], config.Config]) -> None:
    try:
        made = make()
    except ConfigError as error:
        assert option in str(error).lower()
        assert len(str(error)) < 1000
        assert CANARY not in shown(error)
    else:
        assert isinstance(made.max_size, int)
        assert made.max_size >= 1
        assert 0 < made.timeout <= 1e6
        assert made.max_idle is None or 0 < made.max_idle <= 1e6


@effort(800)
@given(
    st.dictionaries(
        st.one_of(
            st.sampled_from([name.upper() for name in (*config.Environment._fields, *config.OPTIONS)]),
            st.text(alphabet=string.ascii_uppercase + "_", max_size=6),
        ),
        st.one_of(st.text(max_size=10), st.sampled_from(["iam", "url", "secret", "x", "postgresql://u:c4n4ry@h/d"])),
        max_size=4,
    )
)
def test_any_environment_is_taken_or_its_variable_named(variables: dict[str, str]) -> None:
    environ = {config.DEFAULT_PREFIX + name: value for name, value in variables.items()}
    try:
        found = config.read_environment(environ=environ)
        config.make(found.url, found.name, {}, found.options)
    except ConfigError as error:
        text = str(error)
        assert "URL" in text or any(name in text for name in environ) or "name=" in text or "size" in text
        # Unless the URL was put in the wrong place, a variable whose value is not secret.
        if all(CANARY not in value for name, value in variables.items() if name != "URL"):
            assert CANARY not in shown(error)
    else:
        assert CANARY not in repr(found).replace(repr(found.name), "")


@effort(300)
@given(st.text(min_size=1, max_size=20))
@example("a\0b")
@example("a\nb")
def test_any_name_is_taken_whole_or_refused(name: str) -> None:
    """The server shows it as application_name."""
    try:
        found = config.make("postgresql://h/d", name, {}, {}).name
    except ConfigError as error:
        assert "name" in str(error)
        return
    assert found == name
    made = psycopg.conninfo.make_conninfo(application_name=name, host="h")
    assert psycopg.conninfo.conninfo_to_dict(made) == {"application_name": name, "host": "h"}


@effort(600)
@given(
    st.one_of(st.text(max_size=30), st.sampled_from(["localhost", "127.0.0.1", "@x", "/run", "h,i", "127.example"])),
    st.sampled_from([None, *tls.MODES]),
    st.one_of(st.none(), st.text(max_size=10), st.sampled_from(["rds", "rds-", "rds-eu-central-1", "rds-x", "system"])),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "127.0.0.1", "::1", "10.0.0.7"]),
    st.sampled_from([None, "", "nonsense", *tls.MODES]),
)
def test_any_host_has_its_encryption(
    host: str, mode: str | None, root: str | None, proxy: bool, needed: bool, hostaddr: str, default: str | None
) -> None:
    try:
        found = tls.choose(host, mode, root, proxy=proxy, required=needed, hostaddr=hostaddr, default_mode=default)
    except ConfigError as error:
        assert "sslrootcert" in str(error)
        return
    assert found.mode in tls.MODES
    if mode is None:
        assert found.verifies or tls.is_local(host, hostaddr)
        assert found.required or not needed
        assert default not in tls.MODES or not tls.weaker(found.mode, default)


# --- Lambda contexts --------------------------------------------------------------------------------------------------

_remaining: st.SearchStrategy[Any] = st.one_of(
    _odd, st.sampled_from([0, -1, 0.5, 10**18, -(10**18), float("nan"), float("inf"), float("-inf"), 1e308])
)


@effort(400)
@given(_remaining)
@example(MagicMock())
@example(10**400)
def test_any_remaining_time_is_a_number_of_seconds_or_unknown(left: Any) -> None:
    with invoked(lambda: left):
        deadline, known = Deadline(5.0), remaining()
    assert deadline.left() <= 5.0
    assert known is None or -1e9 < known < 1e9


@pytest.mark.parametrize(
    "context",
    [
        None,
        object(),
        "context",
        {},
        MagicMock(),
        SimpleNamespace(get_remaining_time_in_millis=None),
        SimpleNamespace(get_remaining_time_in_millis=3000),
        SimpleNamespace(get_remaining_time_in_millis=lambda: None),
        SimpleNamespace(get_remaining_time_in_millis=lambda: "3000"),
        SimpleNamespace(get_remaining_time_in_millis=lambda: float("nan")),
        SimpleNamespace(get_remaining_time_in_millis=lambda: 10**400),
        SimpleNamespace(get_remaining_time_in_millis=lambda: 3000, aws_request_id=None),
    ],
    ids=lambda context: repr(context).split(" at 0x")[0].split(" id=")[0][:40],
)
def test_a_handler_runs_under_any_context(pg_url: str, context: object) -> None:
    """Contexts as unit tests and other frameworks make them."""
    pool = lambda_pool.Pool(pg_url, observers=(), cancel_before_deadline=0.5)

    @pool.handler
    def handler(event: object, context: object, conn: Any) -> Any:
        return conn.execute("select 42").fetchone()[0]

    assert [handler({}, context) for _ in range(2)] == [42, 42]
    assert (pool.stats().opened, pool.stats().idle) == (1, 1)
    pool.close()


# --- answers of the RDS API, by botocore's own model ------------------------------------------------------------------

_rds = ServiceModel(Loader().load_service_model("rds", "service-2"))
_absurd: st.SearchStrategy[Any] = st.one_of(_odd, st.just(""), st.just({}), st.just([]))


def _shaped(shape: Shape, depth: int = 0) -> st.SearchStrategy[Any]:
    """Values of a shape, whose members are mostly right."""
    if isinstance(shape, StructureShape):
        if depth > 3:
            return st.just({})
        members = {name: _shaped(member, depth + 1) for name, member in shape.members.items()}
        wanted = {name: members[name] for name in members if name in _WANTED or depth == 0}
        if not wanted:
            return st.just({})
        known = {name: st.one_of(*[st.just(_USUAL[name])] * 5, wanted[name]) for name in wanted if name in _USUAL}
        return damaged(wanted | known, _absurd)
    if isinstance(shape, ListShape):
        return st.lists(_shaped(shape.member, depth + 1), max_size=2)
    if shape.type_name == "boolean":
        return st.booleans()
    if shape.type_name in {"integer", "long"}:
        return st.integers(-1, 70_000)
    choices: list[str] = getattr(shape, "enum", [])
    named = st.sampled_from(["orders", "available", "READ_ONLY", "mysql", "aurora-postgresql", "MYSQL", "a.example"])
    return st.one_of(st.sampled_from(choices), named) if choices else named


_USUAL = {
    "DBProxyName": "orders",
    "DBClusterIdentifier": "orders",
    "Status": "available",
    "Endpoint": "a.example",
    "EngineFamily": "MYSQL",
    "Engine": "aurora-mysql",
    "TargetRole": "READ_ONLY",
}
# Members that we read, and some that look like them.
_WANTED = frozenset(
    [
        "DBProxyName",
        "Status",
        "EngineFamily",
        "Endpoint",
        "RequireTLS",
        "DefaultAuthScheme",
        "Auth",
        "IAMAuth",
        "DBProxyEndpointName",
        "TargetRole",
        "DBClusterIdentifier",
        "Engine",
        "ReaderEndpoint",
        "Port",
        "IAMDatabaseAuthenticationEnabled",
        "DBClusterMembers",
        "IsClusterWriter",
        "EngineMode",
        "VpcId",
        "CustomEndpoints",
        "GlobalWriteForwardingStatus",
        "ClusterCreateTime",
    ]
)


def _answers(operation: str, key: str) -> st.SearchStrategy[list[Any]]:
    output = _rds.operation_model(operation).output_shape
    assert isinstance(output, StructureShape)
    shape = output.members[key]
    assert isinstance(shape, ListShape)
    return st.lists(_shaped(shape.member), max_size=3)


_WRITER = Endpoint("writer", 5432, proxy=True, engine="postgresql")


@pytest.mark.sampled(1 / 3, "7 s")
@effort(120)
@given(
    _answers("DescribeDBProxies", "DBProxies"),
    _answers("DescribeDBProxyEndpoints", "DBProxyEndpoints"),
    _answers("DescribeDBClusters", "DBClusters"),
)
def test_answers_shaped_by_the_model(proxies: list[Any], endpoints: list[Any], clusters: list[Any]) -> None:
    for read in (
        lambda: read_proxy(proxies, "orders"),
        lambda: read_proxy_reader(endpoints, "orders", _WRITER),
        lambda: read_cluster(clusters, "orders"),
    ):
        try:
            found: Any = read()
        except EndpointError as error:
            assert "orders" in str(error)
            continue
        for endpoint in found if isinstance(found, tuple) else [found] if found else []:
            assert 0 < len(endpoint.host) <= 253
            assert endpoint.port is None or 0 < endpoint.port < 65536
            json.dumps([endpoint.host, endpoint.port, endpoint.engine, endpoint.iam, endpoint.requires_tls])
