"""The steps of a diagnosis: each looks at one thing, in the same way as the pool itself."""

from __future__ import annotations

import socket
import ssl
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from lambda_pool import config as configuration
from lambda_pool.auth.base import Credentials, UrlAuth
from lambda_pool.auth.iam import IamToken
from lambda_pool.aws.hosts import Kind, recognise
from lambda_pool.cli.database import as_text
from lambda_pool.cli.doctor import advice, aws, network
from lambda_pool.cli.doctor.proxy import of_targets
from lambda_pool.cli.doctor.report import Finding, Redactor, failed, ok, warning
from lambda_pool.cli.doctor.room import room
from lambda_pool.cli.doctor.words import of_auth, of_error
from lambda_pool.cli.terminal import duration
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint, Role
from lambda_pool.engines.base import TRANSIENT, ConnectRequest, Failure, FleetConnection
from lambda_pool.hints import contradiction
from lambda_pool.invocation import Deadline
from lambda_pool.pool import ConnectionPool
from lambda_pool.tls import Tls, context, is_local
from lambda_pool.tls import advice as tls_advice
from lambda_pool.waiting import within

_PINGS = 5
_SLOW_ROUND_TRIP = 0.02
"""Seconds: within a region, across zones, it is 1 to 2 ms."""
_SKEW = 60.0
"""Seconds: far more than any round trip, far less than the five minutes after which AWS refuses signatures."""
_SOON = 30 * 86_400
_SOCKETS = "/var/run/postgresql"
"""Where psycopg's libpq looks for a Unix socket without being told."""

_POSTGRES = """
select current_setting('server_version'), current_user, current_database(), extract(epoch from clock_timestamp()),
    pg_backend_pid(), current_setting('transaction_read_only') = 'on', pg_is_in_recovery()
"""
_MYSQL = """
select version(), current_user(), database(), unix_timestamp(now(6)),
    connection_id(), @@global.read_only or @@global.innodb_read_only, @@global.innodb_read_only
"""


@dataclass
class Patient:
    """The pool under examination, and what the steps so far found out for the later ones."""

    pool: ConnectionPool
    role: Role
    deadline: float
    redactor: Redactor
    endpoint: Endpoint = field(default_factory=lambda: Endpoint(""))
    credentials: Credentials | None = None
    addresses: list[network.Address] = field(default_factory=list)
    reached: network.Address | None = None
    link: FleetConnection | None = None
    server: tuple[Any, ...] = ()
    server_ahead: float = 0.0

    @property
    def engine(self) -> str:
        """`postgresql` or `mysql`."""
        return self.pool.config.url.engine

    @property
    def host(self) -> str:
        """Where to: a host name, or a Unix socket's path or directory."""
        return self.request().host

    def cursor(self) -> AbstractContextManager[Any]:
        """The driver's plain cursor, which returns tuples: `connect_args` may name another class."""
        assert self.link is not None
        return self.pool.connector.engine.cursor(self.link.driver_connection)

    def within(self, seconds: float) -> Deadline:
        """At most `seconds`, and no longer than the whole diagnosis, or the invocation, may take."""
        return Deadline(max(min(seconds, self.deadline - time.monotonic()), 0.001))

    def request(self) -> ConnectRequest:
        """What the driver would be told. Raises ConfigError."""
        credentials = self.credentials or Credentials(self.pool.config.url.user, None)
        deadline = self.within(self.pool.config.connect_timeout)
        return self.pool.connector.request(self.endpoint, credentials, deadline)


def endpoint(patient: Patient) -> Finding:
    """Where the pool would connect to."""
    deadline = patient.within(patient.pool.config.timeout)
    silent = _silent_hosts(patient)
    found = patient.endpoint = patient.pool.connector.resolve(patient.role, deadline)
    patient.redactor.spare(found.host, found.port)
    known = recognise(found.host)
    where = f"{found.host or 'known from the credentials, or the local socket'}{f':{found.port}' if found.port else ''}"
    what = known.kind.value if known else "RDS Proxy" if found.proxy else ""
    facts = {"host": found.host, "port": found.port, "proxy": found.proxy, "iam": found.iam, "kind": what}
    detail = f"{where}{f' ({what})' if what else ''}"
    if known is not None and known.kind is Kind.READER and patient.role is Role.WRITER:
        writer = known.name.replace(".cluster-ro-", ".cluster-", 1)
        return warning(
            detail, f"This is the cluster's reader endpoint, which refuses writes: use {writer} for them.", **facts
        )
    if silent:
        return warning(detail, f"The pool goes on to {found.host}: {'; '.join(silent)}.", **facts)
    return ok(detail, **facts)


def _silent_hosts(patient: Patient) -> list[str]:
    """What is wrong with the configured hosts before the first one that answers, which the pool then uses."""
    source, addresses = patient.pool.connector.endpoint, patient.pool.config.url.addresses
    if not (isinstance(source, FixedEndpoint) and source.several):
        return []
    deadline = patient.within(patient.pool.config.timeout)
    found: list[str] = []
    for number in range(len(addresses)):
        at = source.resolve(patient.role, 0.0)
        share = deadline.left() / (len(addresses) - number)
        try:
            _dial_any(at.host, at.port or configuration.PORTS[patient.pool.config.url.engine], share)
        except OSError as error:
            found.append(f"{at.host} does not answer ({of_error(error)})")
            source.failed(at)
        else:
            return found
    return []  # no host answers: the later steps say so about the one that is next


def _dial_any(host: str, port: int, seconds: float) -> None:
    """Raises OSError if none of the host's addresses answers. A Unix socket is left to the later steps."""
    if host.startswith(("/", "@")):
        return
    deadline = Deadline(seconds)
    reached, problems = network.first_to_answer(network.look_up(host, port, seconds), deadline.left())
    if reached is None:
        raise problems[-1][1]


def identity(patient: Patient) -> Finding:
    """Who logs in."""
    auth = patient.pool.connector.auth
    found = patient.credentials = patient.pool.connector.login(
        patient.endpoint, patient.within(patient.pool.config.timeout)
    )
    patient.redactor.add(found.password)
    patient.redactor.spare(found.user, found.host, found.database)
    origin = "" if isinstance(auth, IamToken | UrlAuth) else f", from {of_auth(auth)}"
    how = "an IAM token" if found.iam else "a password" if found.password else "no password"
    detail = f"user {found.user or '(none)'} with {how}{origin}"
    signed = aws.read_token(found.password) if found.iam else None
    facts: dict[str, Any] = {"user": found.user, "iam": found.iam, "auth": of_auth(auth)}
    if signed:
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(signed.at))
        detail += f", signed for {signed.region} at {stamp} UTC"
        facts |= {"region": signed.region, "signed_at": stamp}
    if found.user:
        return ok(detail, **facts)
    return warning(detail, "Name the database user in the URL, as in postgresql://app@host/database.", **facts)


def dns(patient: Patient) -> Finding:
    """The host's addresses."""
    request = patient.request()
    host, socket_path = request.host, _socket_path(patient.engine, request)
    if socket_path:
        patient.addresses = [(int(socket.AF_UNIX), socket_path, 0)]
        return ok(f"{socket_path} is a Unix socket")
    host = request.hostaddr or host or "localhost"
    deadline = patient.within(patient.pool.config.connect_timeout)
    try:
        patient.addresses = network.look_up(host, request.port, deadline.left())
    except (OSError, UnicodeError) as error:
        return failed(f"{host} has no address: {of_error(error)}", *advice.of_name(error, host), host=host)
    found = [address for _, address, _ in patient.addresses]
    if request.hostaddr:
        return ok(f"{request.host or host} is not looked up: hostaddr says {host}", host=request.host, addresses=found)
    return ok(f"{host} is {', '.join(found)}", host=host, addresses=found)


def _socket_path(engine: str, request: ConnectRequest) -> str:
    """The path of the Unix socket that the driver would open; empty for TCP."""
    host = request.host
    if request.hostaddr:
        return ""
    if engine == "mysql":
        return host if host.startswith("/") else ""
    return f"{host or _SOCKETS}/.s.PGSQL.{request.port}" if not host or host.startswith(("/", "@")) else ""


def tcp(patient: Patient) -> Finding:
    """Whether one of the addresses answers."""
    deadline = patient.within(patient.pool.config.connect_timeout)
    start = time.monotonic()
    patient.reached, problems = network.first_to_answer(patient.addresses, deadline.left())
    if patient.reached:
        return ok(f"{_shown(patient.reached)} answers", milliseconds=round((time.monotonic() - start) * 1000, 1))
    address, problem = problems[-1]
    detail = "; ".join(f"{_shown(where)}: {of_error(error)}" for where, error in problems)
    in_lambda = configuration.in_lambda()
    return failed(detail, *advice.of_address(problem, address[1], address[2], in_lambda=in_lambda))


def _shown(address: network.Address) -> str:
    _, where, port = address
    return f"{where}:{port}" if port else where


def tls(patient: Patient) -> Finding:
    """Encryption, and whether the certificate verifies."""
    request = patient.request()
    wanted, host = request.tls, request.host or request.hostaddr
    assert patient.reached is not None
    if patient.reached[2] == 0:
        return ok("a Unix socket needs none", mode=wanted.mode)
    if wanted.mode == "disable":
        plain = "not encrypted, as sslmode=disable says"
        return (
            ok(plain)
            if is_local(host, request.hostaddr)
            else warning(plain, "Take sslmode out of the URL: with it, everything travels in plain text.")
        )
    deadline = patient.within(patient.pool.config.connect_timeout)
    made = context(wanted, host)  # ConfigError for a CA file that cannot be read
    facts: dict[str, Any] = {"mode": wanted.mode, "ca_file": wanted.ca_file}
    try:
        with (
            network.dial(patient.reached, deadline.left()) as sock,
            network.start_tls(patient.engine, sock, made, host, deadline.left()) as encrypted,
        ):
            facts |= {"version": encrypted.version(), "cipher": (encrypted.cipher() or ("",))[0]}
            certificate: dict[str, Any] = encrypted.getpeercert() or {}
    except network.NoTlsError:
        if not wanted.required:
            return ok(f"not encrypted: the server has no TLS, and sslmode={wanted.mode} allows that", **facts)
        return failed("the server does not support TLS", tls_advice("does not support it", host, wanted), **facts)
    except network.RefusedError as error:
        return failed(f"the server hung up: {error}", *_of_refusal(str(error), patient, request), **facts)
    except network.StrangerError as error:
        return failed(
            f"the server there does not answer like {patient.engine} ({error})",
            *([advice.of_sleep(patient.pool.config.wake_timeout)] if isinstance(error, network.SilentError) else []),
            "Check the port, and the engine that the URL begins with. A load balancer without a healthy target does "
            "this too, and so does a server that hangs.",
            **facts,
        )
    except (ssl.SSLError, OSError) as error:
        return failed(of_error(error), tls_advice(str(error), host, wanted), **facts)
    return _of_certificate(certificate, wanted, facts, local=is_local(host, request.hostaddr))


def _of_refusal(text: str, patient: Patient, request: ConnectRequest) -> list[str]:
    kind = Failure.TOO_MANY if "(1040)" in text or "too many" in text else Failure.OTHER
    return advice.of_login(text.replace("(1129)", "(1129,"), kind, patient.engine, request)


def _of_certificate(certificate: dict[str, Any], wanted: Tls, facts: dict[str, Any], *, local: bool) -> Finding:
    detail = f"{facts['version']}, sslmode={wanted.mode}"
    if not certificate:  # Python decodes no certificate that it did not verify
        detail += ", the certificate is not verified"
        if local:
            return ok(detail, **facts)
        return warning(detail, "Take sslmode out of the URL: by default the certificate is verified in full.", **facts)
    expires = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    facts |= {"issuer": _name(certificate["issuer"]), "expires": str(certificate["notAfter"])}
    detail += f", certificate by {facts['issuer']}, until {facts['expires']}"
    if expires - time.time() < _SOON:
        return warning(detail, "The server's certificate expires soon: have it rotated.", **facts)
    return ok(detail, **facts)


def _name(parts: Any) -> str:
    """The most telling part of a distinguished name."""
    named = {key: value for part in parts for key, value in part}
    return str(named.get("commonName") or named.get("organizationName") or "an unnamed authority")


def login(patient: Patient) -> Finding:
    """The driver's own connect, as the pool does it."""
    connector = patient.pool.connector
    request = patient.request()
    try:
        patient.link = connector.engine.connect(request)
    except Exception as error:  # noqa: BLE001 - whatever the driver raises is to be reported
        kind = connector.engine.classify(error)
        detail = of_error(error)
        if kind not in {Failure.OTHER, Failure.FOREIGN}:
            detail = f"{kind.value.replace('_', ' ')}: {detail}"
        return failed(detail, *_of_failed_login(patient, request, error, kind), kind=kind.value)
    return ok(f"as {request.credentials.user} to database {request.database}", backend_id=patient.link.backend_id)


def _of_failed_login(patient: Patient, request: ConnectRequest, error: Exception, kind: Failure) -> list[str]:
    hints = advice.of_login(str(error), kind, patient.engine, request)
    if kind in TRANSIENT and request.pooled:
        left = patient.within(patient.pool.config.timeout).left()
        targets = of_targets(request.host, patient.pool.connector.endpoint, left)
        if targets:
            return [*targets, *hints]
    if kind is Failure.RESUMING:
        return [advice.of_sleep(patient.pool.config.wake_timeout), *hints]
    mismatch = contradiction(request.credentials, patient.endpoint)
    if kind is Failure.REJECTED and mismatch:
        return [mismatch]
    if kind is not Failure.REJECTED or not request.credentials.iam:
        return hints or [str(error)] if isinstance(error, ValueError) else hints
    signed = aws.read_token(request.credentials.password)
    region = signed.region if signed else ""
    source = patient.pool.connector.endpoint
    answer = aws.ask(request.host, source, region, patient.within(patient.pool.config.timeout).left())
    return advice.of_token(error, patient.engine, request, region, signed, answer)


def query(patient: Patient) -> Finding:
    """One statement, and what it says about the server."""
    link = patient.link
    assert link is not None
    deadline = patient.within(patient.pool.config.timeout)

    start = time.time()
    try:
        server = patient.server = within(deadline.left(), _ask, patient)
    except TimeoutError:
        link.abort()
        return failed(
            "no answer in time", "The server accepts logins but runs no query: look at its load and its locks."
        )
    version, user, database, now, backend, *_ = server
    patient.server_ahead = float(now) - (start + time.time()) / 2
    facts = {"version": version, "user": user, "database": database, "backend_id": backend}
    detail = f"version {version}, user {user}, database {database}"
    if backend != link.backend_id and not patient.request().pooled:
        return warning(
            f"{detail}, behind a pooler",
            "The login and the query had different session numbers, so there is a pooler in between: add pooled=true "
            "to the URL, or statements that psycopg prepares will get lost.",
            **facts,
        )
    return ok(detail, **facts)


def _ask(patient: Patient) -> tuple[Any, ...]:
    with patient.cursor() as cursor:
        cursor.execute(_POSTGRES if patient.engine == "postgresql" else _MYSQL)
        return as_text(cursor.fetchone())


def state(patient: Patient) -> Finding:
    """Whether the server accepts writes."""
    read_only, replica = bool(patient.server[5]), bool(patient.server[6])
    what = "a replica" if replica else "read-only" if read_only else "a writer"
    facts = {"read_only": read_only or replica, "replica": replica}
    if not (read_only or replica) or patient.role is Role.READER:
        return ok(f"the server is {what}", **facts)
    if replica:
        mend = (
            "Connect to the cluster's writer endpoint, or name the cluster (AuroraCluster). After a failover, wait for "
            "DNS to change. If you only want to read, use --readonly, and connection(readonly=True)."
        )
    else:
        mend = (
            "Look for read_only or default_transaction_read_only in the parameter group or on the role; RDS also sets "
            "them when the storage is full, and on the old writer of a failover."
        )
    return failed(f"the server is {what}: it refuses to write", mend, **facts)


def clock(patient: Patient) -> Finding:
    """The server's clock, compared with this machine's."""
    ahead = patient.server_ahead
    off = round(abs(ahead), 1)
    detail = (
        f"the server's clock is {duration(off)} {'ahead' if ahead > 0 else 'behind'}"
        if off
        else "the server's clock agrees"
    )
    if abs(ahead) < _SKEW:
        return ok(detail, seconds_ahead=round(ahead, 1))
    mend = "Set this machine's clock: if it is off by five minutes, AWS refuses its signatures and IAM tokens."
    return warning(detail, mend, seconds_ahead=round(ahead, 1))


def round_trip(patient: Patient) -> Finding:
    """How long the shortest answer takes: every statement takes at least that."""
    assert patient.link is not None
    times = []
    # The ping must not be part of the cursor's transaction, if there is one.
    patient.link.driver_connection.rollback()
    for _ in range(_PINGS):
        start = time.monotonic()
        patient.link.ping(max(patient.within(patient.pool.config.ping_timeout).left(), 0.001))
        times.append(time.monotonic() - start)
    median = statistics.median(times)
    facts = {"median_milliseconds": round(median * 1000, 3), "least_milliseconds": round(min(times) * 1000, 3)}
    detail = f"{duration(median)} (median of {_PINGS}, least {duration(min(times))})"
    if median < _SLOW_ROUND_TRIP:
        return ok(detail, **facts)
    return warning(detail, "That is slow within one region: run the function where the database is.", **facts)


Check = Callable[[Patient], Finding]

CHECKS: tuple[tuple[str, Check, tuple[str, ...]], ...] = (
    ("endpoint", endpoint, ()),
    ("identity", identity, ("endpoint",)),
    ("dns", dns, ("endpoint",)),
    ("tcp", tcp, ("dns",)),
    ("tls", tls, ("tcp",)),
    ("login", login, ("identity", "tls")),
    ("query", query, ("login",)),
    ("state", state, ("query",)),
    ("clock", clock, ("query",)),
    ("round trip", round_trip, ("query",)),
    ("room", room, ("query",)),
)
"""In order; each with the steps that it depends on."""
