"""Coverage-guided fuzzing of the pure parsers. `make fuzz` runs each for a while.

usage: fuzz_parsers.py TARGET [options of libFuzzer, such as -max_total_time=60, and a folder that keeps what it found]

Each target takes any bytes. It fails for any exception except our own, for one that shows a password, and for a wrong
result. A failure ends the run and leaves its bytes in a file. To repeat it, run the target with that file's name.
"""

import json
import sys
from collections.abc import Callable
from urllib.parse import urlencode

import atheris

with atheris.instrument_imports(include=["lambda_pool"]):
    from lambda_pool import config, tls
    from lambda_pool.auth import secrets
    from lambda_pool.aws import hosts
    from lambda_pool.config import synonyms
    from lambda_pool.endpoints import answers
    from lambda_pool.endpoints.base import Endpoint
    from lambda_pool.engines.psycopg.arguments import ARGUMENTS as LIBPQ
    from lambda_pool.engines.pymysql.arguments import ARGUMENTS as PYMYSQL
    from lambda_pool.errors import ConfigError, EndpointError
    from lambda_pool.secret import Secret

PASSWORD = "c4n4ry"


def hidden(error: BaseException) -> None:
    """Check that the password is in no text of an error or of the errors behind it."""
    found: BaseException | None = error
    while found is not None:
        assert PASSWORD not in f"{found} {found!r} {found.args!r}", found
        found = found.__cause__ or found.__context__


def url(data: atheris.FuzzedDataProvider) -> None:
    """Any text, and a password anywhere in the front part of a URL."""
    text = data.ConsumeUnicodeNoSurrogates(200)
    before, after = text[: len(text) // 2], text[len(text) // 2 :]
    engine = "mysql" if data.ConsumeBool() else "postgresql"
    for attempt in (text, f"{engine}://u:{before}{PASSWORD}{after}@h/d", f"{engine}://u:{PASSWORD}@{text}"):
        try:
            made = config.make(attempt, None, {}, {})
        except ConfigError as error:
            hidden(error)
        else:
            assert made.url.engine in {"postgresql", "mysql"}
            assert "\0" not in made.url.host + made.url.user + made.url.database
            assert made.url.port is None or 0 < made.url.port < 65536


WORDS = sorted(
    {*synonyms.OWN, *synonyms.OPTIONS, "ssl", "tls", "ssl_ca", "ssl-mode", "ssl_disabled", "host", "hostaddr"}
)


def query(data: atheris.FuzzedDataProvider) -> None:
    """Any words of a query, ours and those of others, with any values."""
    engine = "mysql" if data.ConsumeBool() else "postgresql"
    pairs = {}
    for _ in range(data.ConsumeIntInRange(0, 4)):
        name = data.PickValueInList(WORDS) if data.ConsumeBool() else data.ConsumeUnicodeNoSurrogates(12)
        common = ["true", "0", "REQUIRED", "verify-ca", "/ca.pem", "10", "::1"]
        pairs[name] = data.PickValueInList(common) if data.ConsumeBool() else data.ConsumeUnicodeNoSurrogates(20)
    text = urlencode(pairs)
    try:
        made = config.make(f"{engine}://u@db.example/d?{text}", None, {}, {}).url
    except ConfigError as error:
        assert str(error)
        return
    assert made.sslmode is None or made.sslmode in tls.MODES
    assert (made.sslcert is None) is (made.sslkey is None)
    assert not made.encrypted or made.sslmode is None or not tls.weaker(made.sslmode, "require")
    asked = any("ssl" in name.lower() or name == "tls" for name in pairs)
    assert asked or (made.sslmode, made.sslrootcert, made.encrypted) == (None, None, False)


def parts(data: atheris.FuzzedDataProvider) -> None:
    """Any texts as the parts of a database's address, and a password that nothing may show."""
    given = {name: data.ConsumeUnicode(20) for name in config.PARTS if data.ConsumeBool()}
    given |= {"password": data.ConsumeUnicodeNoSurrogates(8).replace("\0", "") + PASSWORD}
    misplaced = data.PickValueInList(["host", "port", "engine", "user"])
    if data.ConsumeBool():
        given[misplaced] = f"{data.ConsumeUnicode(8)}{PASSWORD}"
    try:
        made = config.from_parts(given, str.upper, needs_host=data.ConsumeBool())
    except ConfigError as error:
        hidden(error)
        return
    assert made.password is not None and made.password.reveal() == given["password"]
    assert made.port is None or 0 < made.port < 65536
    assert PASSWORD not in repr(made).replace(repr(made.host), "").replace(repr(made.user), "")


def argument(data: atheris.FuzzedDataProvider) -> None:
    """Any value for any argument of a driver: it is passed on in the driver's type, or named and not shown."""
    engine, table = data.PickValueInList([("postgresql", LIBPQ), ("mysql", PYMYSQL)])
    # Except `charset`, for which the driver is asked: the driver is not installed here.
    names = sorted(table.names - {"charset"})
    name = data.PickValueInList(names) if data.ConsumeBool() else data.ConsumeUnicode(12)
    found = data.ConsumeUnicode(20) if data.ConsumeBool() else value(data, ["a"], 1)
    given = f"{PASSWORD}{found}" if data.ConsumeBool() else found
    try:
        told = table.check(engine, {}, {name: given})
    except ConfigError as error:
        assert PASSWORD in name or PASSWORD not in str(error), error
        return
    assert set(told) == {name}
    assert name not in table.refused


def option(data: atheris.FuzzedDataProvider) -> None:
    """Any text for any option's variable."""
    name = data.PickValueInList(sorted(config.OPTIONS))
    try:
        config.make("mysql://u@h/d", None, {}, {name: data.ConsumeUnicode(300)})
    except ConfigError as error:
        assert name.upper() in str(error) or name in str(error), error


def value(data: atheris.FuzzedDataProvider, keys: list[str], depth: int = 3) -> object:
    """Anything that JSON can hold. It is made here and not parsed: the fuzzer cannot look into a parser in C."""
    kind = data.ConsumeIntInRange(0, 8 if depth else 5)
    if kind == 0:
        return data.PickValueInList([None, True, False, 10**400, float("nan"), ""])
    if kind == 1:
        return data.ConsumeInt(4)
    if kind == 2:
        return data.ConsumeUnicode(300)
    if kind <= 5:
        return data.PickValueInList(TEXTS)
    if kind == 6:
        return [value(data, keys, depth - 1) for _ in range(data.ConsumeIntInRange(0, 3))]
    return {data.PickValueInList(keys): value(data, keys, depth - 1) for _ in range(data.ConsumeIntInRange(0, 8))}


TEXTS = [
    "orders",
    "ORDERS",
    "available",
    "creating",
    "MYSQL",
    "aurora",
    "postgres",
    "READ_ONLY",
    "h.example.",
    "5432",
    "x",
]


def secret(data: atheris.FuzzedDataProvider) -> None:
    """Any body of a secret: text, or JSON with the keys that matter."""
    keys = ["username", "password", "host", "port", "dbname", "engine", "other"]
    text = data.ConsumeUnicode(300) if not data.ConsumeIntInRange(0, 9) else json.dumps(value(data, keys))
    found = secrets._parse(secrets._Answer("v", Secret(text)))
    if isinstance(found, str):
        # An error may show only the names of the body's keys, which are ours.
        assert len(text) < 12 or text not in found
        return
    fields = json.loads(text)
    assert found.password.reveal() == fields["password"] != ""
    assert found.port is None or 0 < found.port < 65536


def arn(data: atheris.FuzzedDataProvider) -> None:
    """Any text as a secret's name."""
    text = data.ConsumeUnicode(200)
    try:
        secrets.SecretsManager(text if data.ConsumeBool() else f"arn:aws:secretsmanager:{text}")
    except ConfigError as error:
        assert "SecretsManager" in str(error)


def answer(data: atheris.FuzzedDataProvider) -> None:
    """Any answer of the RDS API, with the keys that matter."""
    said = [value(data, KEYS) for _ in range(data.ConsumeIntInRange(1, 3))]
    writer = Endpoint("w", 5432)
    for read in (answers.read_proxy, answers.read_cluster, lambda s, n: answers.read_proxy_reader(s, n, writer)):
        try:
            found = read(said, "orders")
        except EndpointError as error:
            assert "orders" in str(error)
            continue
        for endpoint in found if isinstance(found, tuple) else [found] if found else []:
            assert 0 < len(endpoint.host) <= 253
            assert not set(endpoint.host) & set(" ,/@\0")


KEYS = [
    *("DBProxyName", "Status", "EngineFamily", "Endpoint", "RequireTLS", "DefaultAuthScheme", "Auth", "IAMAuth"),
    *("DBProxyEndpointName", "TargetRole", "DBClusterIdentifier", "Engine", "ReaderEndpoint", "Port"),
    *("IAMDatabaseAuthenticationEnabled", "DBClusterMembers", "IsClusterWriter"),
]


def host(data: atheris.FuzzedDataProvider) -> None:
    """Any text as a host name, and its encryption."""
    name = data.ConsumeUnicode(300) + data.PickValueInList(["", ".rds.amazonaws.com", ".eu-west-1.rds.amazonaws.com"])
    found = hosts.recognise(name)
    assert found is None or hosts.recognise(found.name) == found
    mode = data.PickValueInList([None, *tls.MODES])
    root = data.PickValueInList([None, "system", "rds", "rds-" + data.ConsumeUnicode(20)])
    try:
        made = tls.choose(
            name,
            mode,
            root,
            proxy=data.ConsumeBool(),
            required=data.ConsumeBool(),
            hostaddr=(hostaddr := data.PickValueInList(["", "127.0.0.1", "::1", "10.0.0.7"])),
            default_mode=data.PickValueInList([None, "nonsense", *tls.MODES]),
        )
    except ConfigError as error:
        assert "sslrootcert" in str(error)
        return
    assert made.mode in tls.MODES
    assert made.verifies or mode is not None or tls.is_local(name, hostaddr)
    assert tls.advice(data.ConsumeUnicode(50), name, made)


TARGETS: dict[str, Callable[[atheris.FuzzedDataProvider], None]] = {
    check.__name__: check for check in (url, query, parts, argument, option, secret, arn, answer, host)
}


def main() -> None:
    """Run one target."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {{{'|'.join(TARGETS)}}} [options of libFuzzer]")
    check = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, lambda data: check(atheris.FuzzedDataProvider(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
