"""Opens one connection: where to, as which user, how encrypted, how many attempts, and what to say if all fail."""

import logging
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, TypeVar

from .auth.base import Auth, Credentials, UrlAuth
from .aws.hosts import is_dsql, recognise
from .backoff import LAST_TRY, backoff, crowded_backoff
from .config import PORTS, Config, check_pooled, function_and_version
from .core.dispatch import EventDispatcher
from .core.policy import patience, session_timer
from .endpoints.base import Endpoint, EndpointSource, FixedEndpoint, Role
from .engines.base import TRANSIENT, ConnectRequest, Engine, Failure, FleetConnection
from .errors import (
    ConfigError,
    ConnectError,
    CredentialsError,
    DeadlineExceeded,
    EndpointError,
    LambdaPoolError,
)
from .events import ConnectFailed, CredentialsRefreshed, EndpointRefreshed, Opened, Server, SlowQuery, TimedOut
from .invocation import Deadline, time_out
from .secret import Secret
from .tls import advice, choose, weaker, with_certificate
from .waiting import OverdueError, aside, pause

log: logging.Logger = logging.getLogger("lambda_pool")

T = TypeVar("T")

# Sources that answer at once.
_AT_HAND = (UrlAuth, FixedEndpoint)

# Failures that may mean that the endpoint is no longer at this address. The others come from a server that answers.
_MOVES = frozenset(Failure) - {Failure.REJECTED, Failure.TOO_MANY}

# A timeout of 0 would mean "no bound" to a driver.
_SHORTEST = 0.001
# Seconds that a source gets beyond its time limit, so that its own error is seen.
_GRACE = 0.05


class Connector:
    """Makes the physical connections of one pool."""

    def __init__(
        self, config: Config, engine: Engine, auth: Auth, endpoint: EndpointSource, events: EventDispatcher
    ) -> None:
        self.last_failure: tuple[str, float] = "", 0.0
        self._config = config
        self.engine = engine
        self.require({})
        self._defaults = engine.defaults()
        self.auth = auth
        self.endpoint = endpoint
        if config.url.sslmode is not None:
            self._refuse_plain_text(config.url.sslmode)
        self._events = events
        self._hosts: dict[Role, str] = {}
        self._application_name = f"{function_and_version()} {events.name}".strip()
        self._tells_timer = config.session_idle > 0
        self._resuming = False

    def require(self, arguments: Mapping[str, Any]) -> None:
        """Tell the driver this too, for each connection that is opened from now on. Raises ConfigError."""
        url = self._config.url
        given = {**self._config.connect_args, **arguments}
        self.arguments: Mapping[str, Any] = self.engine.arguments(url.parameters, given, pooled=url.pooled)
        """What the driver is told: the URL's parameters, `connect_args`, and what was required."""

    def open(self, role: Role, deadline: Deadline) -> tuple[FleetConnection, Endpoint]:
        """Open one connection. Until the deadline, it retries after failures that time may heal.

        Raises ConnectError, CredentialsError, EndpointError, DeadlineExceeded or ConfigError.
        """
        try:
            return self._open(role, deadline)
        finally:
            self._resuming = False

    def left(self, deadline: Deadline) -> float:
        """Seconds that a borrower may still wait for others' connections: longer while the database resumes."""
        if self._resuming:
            deadline.extend(patience(Failure.RESUMING, deadline.seconds, deadline.wake))
        return deadline.left()

    def _open(self, role: Role, deadline: Deadline) -> tuple[FleetConnection, Endpoint]:
        attempt = 0
        refreshed = False
        refused: Exception | None = None
        tried = set()
        before = ""
        while True:
            attempt += 1
            start = monotonic()
            request, endpoint = self._prepare(role, deadline, attempt)
            tried.add(endpoint)
            try:
                link = self.engine.connect(request)
            except LambdaPoolError as error:
                self._report(error, type(error).__name__, attempt, start, self.server(request), retrying=False)
                raise
            except Exception as error:
                kind = self.engine.classify(error)
                if kind is Failure.FOREIGN:
                    raise
                stale = request.credentials.cached or request.credentials.pending
                refresh = kind is Failure.REJECTED and stale and not refreshed
                self._note(kind, request.credentials, endpoint)
                deadline.extend(patience(kind, deadline.seconds, deadline.wake))
                self._resuming = self._resuming or kind is Failure.RESUMING
                moved = kind in _MOVES and self._where(role, deadline) not in {None, *tried}
                left = deadline.left()
                delay = crowded_backoff(left) if kind is Failure.TOO_MANY else backoff(attempt)
                delay = 0.0 if refresh or moved else delay
                if delay >= left > LAST_TRY:  # so that what heals within the limit is not given up early
                    delay = left - LAST_TRY
                retrying = (refresh or moved or kind in TRANSIENT) and delay < left
                self._report(error, kind.value, attempt, start, self.server(request), retrying=retrying)
                if kind is Failure.TOO_MANY:
                    refused = error
                elif kind not in TRANSIENT:
                    refused = None
                if not retrying:
                    why = self._explain(error, kind, request, endpoint, deadline, attempt, before, refused)
                    raise why from error
                refreshed = refreshed or refresh
                before = one_line(error)
            else:
                seconds = monotonic() - start
                server = self.server(request)
                self._events.emit(Opened(self._events.name, seconds, attempt, request.host, link.backend_id, server))
                if not link.session_idle:  # the server refused it, or was told otherwise: the next login does not try
                    self._tells_timer = self._tells_timer and not request.session_idle
                proxy = _is_proxy(endpoint, request.host)
                return link, endpoint if proxy is endpoint.proxy else endpoint.replace(proxy=proxy)
            pause(delay)

    def forget(self) -> None:
        """Forget every token, secret and address, with the locks that guard them."""
        try:
            self.auth.forget()
        finally:  # a user's own `auth` may fail
            self.endpoint.forget()

    def open_aside(self, endpoint: Endpoint, deadline: Deadline, address: str) -> FleetConnection:
        """Make one attempt at a connection that does not belong to the pool. Raises what `open` or the driver raises.

        `address`: where to go, so that no name is looked up; empty for a socket of this machine.
        """
        return self.engine.connect(self._request(endpoint, deadline).replace(hostaddr=address))

    def _prepare(self, role: Role, deadline: Deadline, attempt: int) -> tuple[ConnectRequest, Endpoint]:
        """Resolve everything that one attempt needs; nothing of it is kept for the next."""
        start = monotonic()
        try:
            endpoint = self.resolve(role, deadline)
            return self._request(endpoint, deadline, others=max(len(self._config.url.addresses) - attempt, 0)), endpoint
        except LambdaPoolError as error:
            self._report(error, type(error).__name__, attempt, start, self.server(), retrying=False)
            raise

    def _request(self, endpoint: Endpoint, deadline: Deadline, *, others: int = 0) -> ConnectRequest:
        return self.request(endpoint, self.login(endpoint, deadline), deadline, others=others)

    def login(self, endpoint: Endpoint, deadline: Deadline) -> Credentials:
        """Who logs in there. Raises CredentialsError or ConfigError."""
        credentials = self._asked(Credentials, deadline, self.auth.credentials, endpoint, self._config.url.user)
        who = f"pool {self._events.name}: {type(self.auth).__name__}"
        if not isinstance(credentials.password, Secret | None):
            # Not shown: it is a password, and nothing hides it.
            raise ConfigError(f"{who} gave a password that is not wrapped in a Secret")
        texts = credentials.password is None or isinstance(credentials.password.reveal(), str)
        if not texts or not isinstance(credentials.user, str):
            raise ConfigError(f"{who} gave a user or a password that is not text")
        return credentials

    def resolve(self, role: Role, deadline: Deadline) -> Endpoint:
        """Where to connect. Raises EndpointError, also if the endpoint is for another engine than the URL."""
        endpoint = self._asked(Endpoint, deadline, self.endpoint.resolve, role)
        if not isinstance(endpoint.host, str):
            raise ConfigError(f"pool {self._events.name}: {type(self.endpoint).__name__} gave a host that is not text")
        engine = self._config.url.engine
        if endpoint.engine and endpoint.engine != engine:
            raise EndpointError(
                f"pool {self._events.name}: the endpoint {endpoint.host} is for {endpoint.engine}, but the URL starts "
                f"with {engine}://: change one of them"
            )
        if self._hosts.setdefault(role, endpoint.host) != endpoint.host:
            self._hosts[role] = endpoint.host
            self._events.emit(EndpointRefreshed(self._events.name, endpoint.host))
        return endpoint

    def _asked(self, kind: type[T], deadline: Deadline, method: Callable[..., T], *arguments: Any) -> T:
        """The answer of a source, which must be of this kind and come in time.

        A source that may have to ask somebody does so without holding up an event loop.
        """
        source, start = method.__self__, monotonic()  # type: ignore[attr-defined]
        who = type(source).__name__  # not its repr: that of a user's own class may show a password
        left = max(deadline.left(), _SHORTEST)
        if isinstance(source, _AT_HAND):
            return method(*arguments, left)
        late: type[LambdaPoolError] = CredentialsError if kind is Credentials else EndpointError
        late = DeadlineExceeded if deadline.by_invocation else late
        try:
            answer: object = aside(left + _GRACE, method, *arguments, left)
        except OverdueError:
            raise late(
                f"pool {self._events.name}: {who} gave no answer in {monotonic() - start:.1f} s: raise the option "
                "timeout, or give it a timeout of its own"
            ) from None
        if not isinstance(answer, kind):
            raise ConfigError(
                f"pool {self._events.name}: {who} gave an object of the type {type(answer).__name__}, but must give "
                f"{kind.__name__}"
            )
        if left > _SHORTEST and deadline.left() <= 0:
            # Otherwise the connect, for which no time is left, would fail and the server would be blamed.
            raise late(
                f"pool {self._events.name}: {who} answered only after {monotonic() - start:.1f} s, which left no "
                "time to connect: raise the option timeout"
            )
        return answer

    def _where(self, role: Role, deadline: Deadline) -> Endpoint | None:
        """Where the next attempt would go; None if that is not known, or no time is left to find out."""
        if deadline.left() <= 0:
            return None
        try:
            return self._asked(Endpoint, deadline, self.endpoint.resolve, role)
        except LambdaPoolError:
            return None

    def request(
        self, endpoint: Endpoint, credentials: Credentials, deadline: Deadline, *, others: int = 0
    ) -> ConnectRequest:
        """Everything that the driver is told for one attempt. Raises ConfigError.

        `others`: how many hosts of the URL were not tried yet. A silent host leaves them their share of the time.
        """
        url, defaults = self._config.url, self._defaults
        host, hostaddr = endpoint.host or credentials.host or "", url.hostaddr
        # A proxy listens on its engine's usual port. A secret describes the database behind it, whose port may differ.
        port = endpoint.port or (None if endpoint.proxy else credentials.port)
        if not host and not hostaddr:  # as libpq itself would go on
            host, hostaddr, port = defaults.host, defaults.hostaddr, port or defaults.port
        proxy = _is_proxy(endpoint, host)
        if proxy and not url.pooled:
            check_pooled(self._config)
            self.engine.arguments(url.parameters, self._config.connect_args, pooled=True)
        tls = choose(
            host,
            url.sslmode,
            url.sslrootcert,
            proxy=proxy,
            required=self.auth.needs_tls or endpoint.requires_tls or url.encrypted or url.sslcert is not None,
            hostaddr=hostaddr,
            default_mode=defaults.sslmode,
            default_root_cert=defaults.sslrootcert,
        )
        self._refuse_plain_text(tls.mode)
        if url.sslcert is not None:
            tls = with_certificate(tls, url.sslcert, url.sslkey or "", url.sslpassword)
        return ConnectRequest(
            host=host,
            hostaddr=hostaddr,
            port=port or PORTS[self.engine.name],
            database=url.database or credentials.database or "",
            credentials=credentials,
            tls=tls,
            timeout=max(min(self._config.connect_timeout, deadline.left() / (others + 1)), _SHORTEST),
            autocommit=self._config.autocommit,
            pooled=url.pooled or proxy,
            application_name=self._application_name,
            reset=self._config.reset,
            session_idle=self._timer(host, pooled=url.pooled or proxy),
            arguments=self.arguments,
            watched=self._config.cancel_before_deadline > 0,
            # An RDS Proxy does not pass a cancel on, but it ends the statement of a client that is gone.
            aside=None if proxy else lambda most, at: self.open_aside(endpoint, Deadline(most, uncut=True), at),
            patience=self._config.timeout,
            slow_query=self._config.slow_query,
            on_slow=self._slow if self._config.slow_query else None,
            trace_comment=self._config.trace_comment,
        )

    def _refuse_plain_text(self, mode: str) -> None:
        """Raise ConfigError for an sslmode with which a password could travel that must not be heard."""
        if self.auth.needs_tls and weaker(mode, "require"):
            raise ConfigError(
                f"sslmode={mode!r} is not valid with {_source(self.auth)}: its password must never travel unencrypted; "
                "leave sslmode out, or make it 'verify-full'"
            )

    def _timer(self, host: str, *, pooled: bool) -> float:
        """After how many idle seconds the server is told to end the session; 0 if it is told nothing."""
        if pooled or not self._tells_timer or is_dsql(host):
            return 0.0
        return session_timer(self._config.session_idle, time_out())

    def _note(self, kind: Failure, credentials: Credentials, endpoint: Endpoint) -> None:
        """Let the sources forget what this failure puts in doubt."""
        if kind is Failure.REJECTED:
            self.auth.rejected(credentials)
            if credentials.cached:
                self._events.emit(CredentialsRefreshed(self._events.name))
        from .hints import contradiction

        if kind in _MOVES or (kind is Failure.REJECTED and contradiction(credentials, endpoint)):
            self.endpoint.failed(endpoint)

    def is_pooled(self, endpoint: Endpoint) -> bool:
        """True if a pooler stands there. It answers a statement only once it has a backend free."""
        return endpoint.proxy or self._config.url.pooled

    def server(self, request: ConnectRequest | None = None) -> Server:
        """Where an attempt goes to; without one, what the URL says about it."""
        url = self._config.url
        if request is not None:
            return Server(url.engine, request.host or request.hostaddr, request.port, request.database)
        return Server(url.engine, url.host, url.port or 0, url.database)

    def _report(
        self, error: Exception, kind: str, attempt: int, start: float, server: Server, *, retrying: bool
    ) -> None:
        seconds, text = monotonic() - start, one_line(error)
        self.last_failure = text, start + seconds
        self._events.emit(ConnectFailed(self._events.name, seconds, attempt, kind, text, retrying, server))
        log.log(
            logging.INFO if retrying else logging.WARNING,
            "pool %s: connecting failed (%s, attempt %d, %.2f s): %s",
            self._events.name,
            kind,
            attempt,
            seconds,
            text,
            extra={"pool": self._events.name, "error_class": kind, "attempt": attempt, "seconds": seconds},
        )

    def _slow(self, seconds: float, statement: str) -> None:
        name = self._events.name
        self._events.emit(SlowQuery(name, seconds, statement))
        log.warning(
            "pool %s: a statement took %.2f s: %s",
            name,
            seconds,
            statement,
            extra={"pool": name, "seconds": seconds, "statement": statement},
        )

    def _explain(
        self,
        error: Exception,
        kind: Failure,
        request: ConnectRequest,
        endpoint: Endpoint,
        deadline: Deadline,
        attempt: int,
        before: str,
        refused: Exception | None,
    ) -> LambdaPoolError:
        """`refused`: the last refusal for too many connections. The last attempt may have had no time to hear it."""
        where = f"{request.host or request.hostaddr or 'the local socket'}:{request.port}"
        if self._config.url.further:
            where += f" (one of {len(self._config.url.addresses)} hosts)"
        text = f"pool {self._events.name}: could not connect to {where}: {one_line(error)}"
        if kind is Failure.UNTRUSTED:
            return ConnectError(f"{text} ({advice(str(error), request.host or request.hostaddr, request.tls)})")
        make: type[LambdaPoolError] = ConnectError
        if kind is Failure.REJECTED:
            make = CredentialsError
            login = "no password" if request.credentials.password is None else "the password that was given"
            login = login if isinstance(self.auth, UrlAuth) else _source(self.auth)
            text += f" (user {request.credentials.user!r}, {login})"
        elif kind in TRANSIENT:
            waited = deadline.elapsed()
            # The last attempt may have had too little time to learn what is wrong; the one before may have learned it.
            earlier = f"; the previous attempt: {before}" if before not in {"", one_line(error)} else ""
            text += f" ({attempt} attempt{'s' if attempt > 1 else ''} in {waited:.2f} s{earlier})"
            self._events.emit(TimedOut(self._events.name, waited, self.server(request)))
            if deadline.by_invocation:
                make = DeadlineExceeded
                text += "; the invocation had no more time"
        from .hints import of_refusal, silent

        earlier = of_refusal(before, self._config.url.engine, request)
        if kind is Failure.RESUMING and refused is None and not earlier:
            hint = silent(self._config.url.engine, request.port, deadline)
        else:
            hint = self._hint(error, kind, request, endpoint, refused) or earlier
        return make(text + (hint and f". {hint}"))

    def _hint(
        self, error: Exception, kind: Failure, request: ConnectRequest, endpoint: Endpoint, refused: Exception | None
    ) -> str:
        """What to do about a refusal; empty if nobody knows."""
        from .hints import FULL, contradiction, of_refusal

        if kind is Failure.REJECTED:
            # Said only after a login was tried: the API's answer may be an hour old, and the server's is the truth.
            hint = getattr(self.auth, "hint", None)
            found = contradiction(request.credentials, endpoint) or (
                hint(request.host, request.credentials.user) if hint else ""
            )
            if found:
                return found
        return of_refusal(str(refused or error), self._config.url.engine, request) or (FULL if refused else "")


def _is_proxy(endpoint: Endpoint, host: str) -> bool:
    """Whether this is an RDS Proxy. If only the secret names the host, the host's name tells."""
    if endpoint.proxy or endpoint.host:
        return endpoint.proxy
    known = recognise(host)
    return known is not None and known.proxy


def _source(source: object) -> str:
    """How an error names a source. The repr of a user's own class may show its password."""
    ours = getattr(type(source).__repr__, "__module__", "").partition(".")[0] == __package__
    return repr(source) if ours else type(source).__name__


def one_line(error: BaseException, most: int | None = 500) -> str:
    """An error's text on one line, with "; " between libpq's lines, cut to `most` characters."""
    lines = (" ".join(line.split()) for line in str(error).splitlines())
    return "; ".join(filter(None, lines))[:most] or type(error).__name__
