"""The public `Pool` and `handler`: the one place that puts engine, credentials, endpoint and observers together."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from . import config as configuration
from . import lifecycle, replay, sources
from .auth.base import Auth, UrlAuth
from .decorator import Unavailable, connections, decorate
from .endpoints.base import EndpointSource
from .engines.base import Engine
from .errors import ConfigError
from .events import Observer
from .invocation import Deadline
from .pool import ConnectionPool
from .pooled_context import Conn, PooledContext
from .secret import private
from .warming import warm

if TYPE_CHECKING:
    from typing import Unpack

    import psycopg
    import pymysql.connections

    from .decorated import HandlerDecorator
    from .keywords import Arguments, Options, PlainArguments
    from .stats import PoolStats


R = TypeVar("R")


class Described:
    """What a pool of either kind tells about itself."""

    _core: ConnectionPool

    @property
    def name(self) -> str:
        """The pool's name: in logs, events and metrics."""
        return self._core.name

    @property
    def config(self) -> configuration.Config:
        """Everything the pool was told, checked and frozen."""
        return self._core.config

    def stats(self) -> "PoolStats":
        """The pool's figures now."""
        return self._core.stats()


class Pool(Described, Generic[Conn]):
    """Connections to one logical database, kept across warm invocations. Make it at module scope: that opens nothing.

    In: a URL (`postgresql://…` or `mysql://…`), or its parts: `host`, `port`, `user`, `password` (any characters,
    none escaped), `database`, `engine` (`postgresql` or `mysql`; not needed with the ports 5432 and 3306), and
    `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `sslpassword`, `pooled`, which a URL has in its query. With neither,
    the environment is read: LAMBDA_POOL_URL, or the parts as LAMBDA_POOL_HOST and so on, else DATABASE_URL; it also
    says how to authenticate and where the endpoint is. Further: `auth` (IamToken(), SecretsManager(…); by default the
    URL's user and password), `endpoint` (RdsProxy(…), AuroraCluster(…); by default the URL's host), `name` for logs and
    metrics (by default the database's), `observers` (by default CloudWatch metrics inside Lambda), and options, which
    may also be set in the environment as LAMBDA_POOL_<NAME>; a keyword wins. Raises ConfigError.

    A type checker learns the type of connections from `engine` (which may be given with a URL, and must agree with it),
    or from the port 5432 or 3306. Otherwise annotate: `orders: Pool[psycopg.Connection] = Pool(url)`.
    """

    __module__, _awaited = "lambda_pool", False  # AsyncPool's own is True

    @overload
    def __init__(
        self: "Pool[psycopg.Connection]",
        url: str | None = None,
        *,
        engine: Literal["postgresql"],
        port: int | str | None = None,
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Pool[psycopg.Connection]",
        url: None = None,
        *,
        port: Literal[5432, "5432"],
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Pool[pymysql.connections.Connection]",
        url: str | None = None,
        *,
        engine: Literal["mysql"],
        port: int | str | None = None,
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Pool[pymysql.connections.Connection]",
        url: None = None,
        *,
        port: Literal[3306, "3306"],
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Pool[psycopg.Connection[Any]]",
        url: str | None = None,
        *,
        engine: Literal["postgresql"],
        port: int | str | None = None,
        connect_args: Mapping[str, Any],
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Pool[pymysql.connections.Connection[Any]]",
        url: str | None = None,
        *,
        engine: Literal["mysql"],
        port: int | str | None = None,
        connect_args: Mapping[str, Any],
        **arguments: "Unpack[PlainArguments]",
    ) -> None: ...
    @overload
    def __init__(
        self: "Pool[Any]",
        url: str | None = None,
        *,
        engine: str | None = None,
        port: int | str | None = None,
        **arguments: "Unpack[Arguments]",
    ) -> None: ...

    @private
    def __init__(
        self,
        url: str | None = None,
        *,
        host: str | None = None,
        port: int | str | None = None,
        user: str | None = None,
        password: str | None = None,
        database: str | None = None,
        engine: str | None = None,
        auth: Auth | None = None,
        endpoint: EndpointSource | None = None,
        name: str | None = None,
        observers: Sequence[Observer] | None = None,
        **options: "Unpack[Options]",
    ) -> None:
        environment = configuration.read_environment()
        prefix = configuration.DEFAULT_PREFIX
        own = {"host": host, "port": port, "user": user, "password": password, "database": database, "engine": engine}
        given: dict[str, Any] = {**own, **options}
        parts = {key: given[key] for key in configuration.PARTS if given.get(key) is not None}
        where: configuration.Url | str | None = url
        beside = url is not None and parts.keys() == {"engine"}
        if beside:
            parts = {}
        if parts:
            where = _of_parts(parts, url, auth, endpoint)
        elif url is None:
            where = configuration.url_of(environment, prefix, auth=auth is not None, endpoint=endpoint is not None)
            auth = auth or sources.auth_of(environment)
            endpoint = endpoint or sources.endpoint_of(environment)
        from_environment = url is None and not parts
        checked = configuration.make(
            where,
            name or (environment.name if from_environment else None),
            {key: value for key, value in options.items() if key not in configuration.PARTS},
            environment.options,
            prefix,
            environment.url_variable if from_environment else None,
        )
        if beside and engine is not None:
            _check_engine(engine, checked)
        self._assemble(checked, auth, endpoint, observers)

    @classmethod
    def from_env(cls, prefix: str = configuration.DEFAULT_PREFIX) -> "Pool[Any]":
        """A pool configured only by environment variables that begin with `prefix`. Raises ConfigError."""
        return cls._of_environment(configuration.read_environment(prefix), prefix)

    @classmethod
    @private
    def _of_environment(cls, environment: configuration.Environment, prefix: str) -> "Pool[Any]":
        where = configuration.url_of(environment, prefix)
        checked = configuration.make(where, environment.name, {}, environment.options, prefix, environment.url_variable)
        pool: Pool[Any] = cls.__new__(cls)
        pool._assemble(checked, sources.auth_of(environment), sources.endpoint_of(environment), None)
        return pool

    def _assemble(
        self,
        config: configuration.Config,
        auth: Auth | None,
        endpoint: EndpointSource | None,
        observers: Sequence[Observer] | None,
    ) -> None:
        sources.check(auth, endpoint)
        if observers is not None:
            observers = sources.listed(observers)
        if endpoint is None:
            endpoint, proxy = sources.endpoint_at(config)
        elif config.url.hostaddr:
            raise ConfigError(
                "hostaddr in the URL is not valid with endpoint=...: "
                "the connection would not go through that endpoint; keep one"
            )
        else:
            proxy = sources.is_proxy(endpoint)
        if proxy and not config.url.pooled:
            config = config.replace(url=config.url.replace(pooled=True))
            configuration.check_pooled(config)
        auth = auth or UrlAuth(config.url.password)
        sources.check_login(config, auth, endpoint)
        if config.trace_comment:
            from .engines import traceparent  # noqa: F401 - raises ConfigError if a package is missing
        engine = self._engine_for(config.url.engine)
        engine.load()
        self._core = ConnectionPool(
            config,
            engine,
            auth,
            endpoint,
            sources.observers_of(config) if observers is None else observers,
        )
        lifecycle.register(self._core)

    def __repr__(self) -> str:
        return repr(self._core)

    def connection(self, *, readonly: bool = False, timeout: float | None = None) -> PooledContext[Conn]:
        """Borrow a connection for a `with` block: commit if it ends normally, roll back if it raises.

        `readonly`: a read-only transaction, on a reader if there is one. `timeout`: how many seconds to wait at most,
        instead of the option `timeout`. The block yields the driver's connection. Entering raises PoolTimeout,
        DeadlineExceeded, ConnectError, CredentialsError, EndpointError or ConfigError; leaving raises the driver's
        error if COMMIT is refused, CommitUncertain if its answer is lost, or NotCommitted if the block ended normally
        but its work is not saved.
        """
        wait = None if timeout is None else configuration.seconds("timeout", timeout)
        return PooledContext(self._core, wait, readonly=readonly)

    def run(self, work: Callable[[Conn], R], *, attempts: int = 3, readonly: bool = False) -> R:
        """Run `work(conn)` in one transaction and return what it returns.

        `work` is called again, up to `attempts` calls in all, if the connection is lost before COMMIT was sent, or if
        the server reports a serialization failure, a deadlock, a changed schema or (for a writer) that it became a
        reader. So its effects outside of the database may happen more than once. Raises CommitUncertain if COMMIT was
        sent and its answer was lost, NotCommitted if `work` ended normally but is not saved, otherwise what `work` or
        the checkout raises.
        """
        return replay.run(self._core, work, attempts, readonly=readonly)

    def step(self, context: Any, name: str, work: Callable[[Any], R], *, config: Any = None) -> R:
        """Run `work(conn)` as a step of a durable function: exactly once, however often it is interrupted.

        In: the function's DurableContext; the step's name, in ASCII; the work to do, in one transaction; and the SDK's
        `StepConfig`, None for its default. The work's transaction also writes a row to the table lambda_pool_steps,
        which is made at first use. A replay finds the row and returns the stored result. Out: the result, as JSON
        gives it back. Raises what `context.step()` raises. The step itself raises, and the SDK records: ConfigError if
        the result cannot be recorded or the table may not be made, NotCommitted if the work ended its transaction
        itself, otherwise what `Pool.run` raises.
        """
        from . import durable

        found: R = durable.step(self._core, context, name, work, config)
        return found

    def warm(self, *, strict: bool = False) -> None:
        """Open `min_size` connections (at least one) now. A failure is only logged, and the first checkout tries again.
        With `strict` it is raised.
        """
        warm(self._core, Deadline(self._core.config.timeout), strict=strict)

    def close(self) -> None:
        """Close every connection: idle ones now, lent ones when they are returned. A later checkout opens a new one."""
        self._core.close()

    def _engine_for(self, name: str) -> Engine:
        if name == "postgresql":
            from .engines.psycopg.engine import PostgresEngine

            return PostgresEngine(awaited=self._awaited)
        from .engines.pymysql.engine import MysqlEngine

        return MysqlEngine(awaited=self._awaited)

    if TYPE_CHECKING:

        @property
        def handler(self) -> HandlerDecorator[Conn]:
            """Decorate a Lambda handler."""

    else:

        def handler(self, fn=None, *, inject: str = "conn", on_unavailable: Unavailable | None = None):
            """Decorate a Lambda handler: connection in `inject`, commit or roll back, deadline, clean-up, metrics.

            The connection is passed as the keyword `inject` if the function takes it. `on_unavailable(event, context,
            error)` returns the answer if no connection is available, instead of raising an error. Raises ConfigError
            for a bad argument.
            """
            _warm_ahead(self)
            return decorate(fn, inject, on_unavailable, connections(lambda: self._core), whose=self)


def _warm_ahead(pool: Pool[Any]) -> None:
    """Under provisioned concurrency nobody waits for Init, so connect now: the first caller finds a connection open."""
    if configuration.lambda_initialization() == "provisioned-concurrency":
        pool.warm()


@cache
def default_pool() -> Pool[Any]:
    """The pool behind `lambda_pool.handler`, built from the environment on first use. Raises ConfigError."""
    return Pool.from_env()


@private
def pool_at(
    where: configuration.Url | None,
    engine: str,
    database: str | None,
    auth: Auth | None,
    endpoint: EndpointSource | None,
    name: str | None,
    observers: Sequence[Observer] | None,
    options: Mapping[str, Any],
) -> Pool[Any]:
    """A pool for a framework that has its own way to say where the database is.

    If `where` is None, the environment says it, except for the `database` if one is given. Raises ConfigError.
    """
    environment = configuration.read_environment()
    prefix = configuration.DEFAULT_PREFIX
    found: configuration.Url | str | None = where
    variable = None
    pool: Pool[Any] = Pool.__new__(Pool)
    if where is None:
        # So an argument such as libpq's service is refused by its name, and not because it leaves the URL missing.
        pool._engine_for(engine).arguments({}, options["connect_args"], pooled=False)
        auth, endpoint = auth or sources.auth_of(environment), endpoint or sources.endpoint_of(environment)
        name, variable = name or environment.name, environment.url_variable
        found = configuration.url_of(environment, prefix)
    config = configuration.make(found, name, options, environment.options, prefix, variable)
    if config.url.engine != engine:
        raise ConfigError(
            f"the URL in the environment is for {config.url.engine}, but this pool is for {engine}: change one"
        )
    if database is not None:
        config = config.replace(url=config.url.replace(database=database))
    pool._assemble(config, auth, endpoint, observers)
    return pool


def core_of(pool: Described) -> ConnectionPool:
    """The `ConnectionPool` behind a pool of either kind, for the package's own tools."""
    return pool._core


def _default_core() -> ConnectionPool:
    return core_of(default_pool())


if TYPE_CHECKING:
    handler: HandlerDecorator[Any]

else:

    def handler(fn=None, *, inject: str = "conn", on_unavailable: Unavailable | None = None):
        """`Pool.handler` of a pool that is built from the environment on first use; in Lambda, that is during Init."""
        if configuration.in_lambda():
            # So a wrong setting fails the deployment and not the first user, and shutdown can still be prepared.
            _warm_ahead(default_pool())
        return decorate(fn, inject, on_unavailable, connections(_default_core), whose=_default_core)


def _check_engine(given: str, config: configuration.Config) -> None:
    """Raise ConfigError if `engine` does not agree with the URL, wherever that was given."""
    if configuration.engine_of("engine", given, None) != config.url.engine:
        raise ConfigError(f"engine={given!r} is not valid: the URL is for {config.url.engine}; change one of them")


def _of_parts(
    parts: dict[str, Any], url: str | None, auth: Auth | None, endpoint: EndpointSource | None
) -> configuration.Url:
    """The URL that keywords of Pool describe. Raises ConfigError."""
    given = ", ".join(f"{key}=..." for key in parts)
    if url is not None:
        raise ConfigError(f"a URL and {given} are both given: keep either the URL or its parts")
    if "password" in parts and auth is not None:
        raise ConfigError("password=... and auth=... are both given: keep one")
    return configuration.from_parts(parts, lambda part: part, needs_host=endpoint is None and auth is None)
