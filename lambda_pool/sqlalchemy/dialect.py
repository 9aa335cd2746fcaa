"""What both dialects share: which pool they use, who has which connection, and how a transaction ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.pool import NullPool, StaticPool

from .. import api
from ..config import in_lambda
from ..engines.base import Failure, FrameworkConnection
from ..errors import ConfigError
from ..invocation import Deadline
from ..pool import ConnectionPool
from ..waiting import current_borrower
from .borrowed import Borrowed
from .settings import SettingDialect

_GONE = frozenset({Failure.LOST, Failure.SHUTDOWN})

# Options built into each connection: all engines of one pool must agree on them.
_SHARED = ("json_serializer", "json_deserializer", "isolation_level", "client_encoding", "native_inet_types")
_shared: "WeakKeyDictionary[ConnectionPool, dict[str, Any]]" = WeakKeyDictionary()


class PooledDialect(SettingDialect):
    """A mixin in front of one of SQLAlchemy's own dialects, which it changes where the pool knows better."""

    pool: ConnectionPool
    engine_name: str
    """The engine of the pools that it can use."""
    unwanted: ClassVar[tuple[str, ...]] = ()
    """Names in `connect_args` that would give SQLAlchemy other rows than it expects."""

    def __init__(self, lambda_pool: Any = None, readonly: Any = False, **options: Any) -> None:
        """`lambda_pool`: a Pool (None: as the URL says). `readonly`: only read-only transactions, on a reader."""
        if not isinstance(readonly, bool):
            raise ConfigError(f"readonly={readonly!r} is not valid: it must be True or False")
        super().__init__(**options)
        self.readonly = readonly
        self._given = lambda_pool
        self._shares = {name: options.get(name) for name in _SHARED}
        self._borrowed: dict[Any, Borrowed] = {}
        self._next: dict[int, Borrowed] = {}
        self._arguments: dict[str, Any] = {}
        self.dependencies: dict[Any, Any] = {}
        """What `lambda_pool.fastapi.session` has made for the engine of this dialect."""
        level = options.get("isolation_level")
        if level is not None:
            levels = self.get_isolation_level_values(None)  # type: ignore[arg-type]
            if str(level).replace("_", " ") not in levels:
                raise ConfigError(f"isolation_level={level!r} is not valid: it must be one of {', '.join(levels)}")

    # --- the pool behind it -------------------------------------------------------------------------------------------

    def create_connect_args(self, url: URL, *_: Any, **__: Any) -> Any:
        """Find the pool, and tell it what this dialect needs of each connection. Raises ConfigError."""
        self.pool = self.find_pool(self._given, url)
        name = self.pool.config.url.engine
        if name != self.engine_name:
            raise ConfigError(f"{url.drivername}:// is not valid for a pool whose URL begins with {name}://")
        arguments = self.pool.config.connect_args
        for unwanted in self.unwanted:
            if arguments.get(unwanted):
                raise ConfigError(f"connect_args={{{unwanted!r}: ...}} is not valid with SQLAlchemy: take it out")
        if self.pool.config.autocommit:
            raise ConfigError(
                "autocommit=True is not valid with SQLAlchemy, because its transactions would have no effect: take it "
                "out of the pool, and write create_engine(..., isolation_level='AUTOCOMMIT') if you want that"
            )
        self._arguments = dict(super().create_connect_args(make_url(f"{url.drivername}://"))[1])
        self._share()
        return [], dict(self._arguments)

    def find_pool(self, given: Any, url: URL) -> ConnectionPool:
        """The pool that was given, or that the URL means: a new one if it has a host, otherwise the default one.

        Raises ConfigError.
        """
        if given is None and names_a_host(url):
            given = api.Pool(password_shown(url))
        elif given is None:
            without_a_host(url)
            given = api.default_pool()
        return api.core_of(given)

    def adapt(self, link: FrameworkConnection) -> Any:
        """The connection as SQLAlchemy wants it."""
        return link.driver_connection

    def _share(self) -> None:
        known = _shared.setdefault(self.pool, self._shares)
        if known is self._shares:
            self.pool.connector.require(self.needs())
            if self.pool.state.entries:
                self.pool.close()  # what was opened before is not what this dialect needs
        for name, value in self._shares.items():
            if value != known[name]:
                raise ConfigError(
                    f"{name} is not valid: another engine of the same pool has a different one, and both use the same "
                    "connections. Give both the same, or make a Pool for each"
                )

    def needs(self) -> dict[str, Any]:
        """What this dialect needs of each connection."""
        return self._arguments

    @classmethod
    def get_pool_class(cls, url: URL) -> Any:
        """Ours."""
        from .pool import LambdaPool

        return LambdaPool

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> Any:
        """The same for asyncio."""
        from . import asynchronous

        return getattr(asynchronous, f"Async{cls.__name__}")

    @classmethod
    def engine_created(cls, engine: Engine) -> None:
        """Refuse a pool class that would hold on to what it borrowed beyond the end of an invocation.

        NullPool, which Alembic asks for, does not: ours takes its place, because only ours bounds the set-up of a
        connection. StaticPool is for tests, and SQLAlchemy's own tests use it.
        """
        ours = cls.get_pool_class(engine.url)
        if isinstance(engine.pool, NullPool):
            engine.pool = ours.in_place_of(engine.pool, engine.dialect)
        static = isinstance(engine.pool, StaticPool) and not in_lambda()
        if not (static or isinstance(engine.pool, ours)):
            raise ConfigError(
                f"poolclass={type(engine.pool).__name__} is not valid with lambda_pool, because lambda_pool is the "
                "pool: leave it out"
            )

    # --- who has which connection -------------------------------------------------------------------------------------

    def borrow(self, deadline: Deadline) -> Borrowed:
        """Borrow from the pool. Raises what `Pool.connection()` raises."""
        self._take_back_dropped()
        entry = self.pool.acquire(self.pool.role(readonly=self.readonly), deadline)
        borrowed = Borrowed(self.pool, entry, self.adapt(entry.link))
        self._borrowed[borrowed.conn] = borrowed
        borrowed.note_borrower()
        return borrowed

    @contextmanager
    def connects(self, borrowed: Borrowed) -> Iterator[None]:
        """In this block, if SQLAlchemy opens a connection in this thread or task, it gets this one."""
        me = current_borrower()
        self._next[me] = borrowed
        try:
            yield
        finally:
            if self._next.get(me) is borrowed:  # an exception from a signal handler may let this run much later
                del self._next[me]

    def borrowed(self, conn: Any) -> Borrowed:
        """As `known`. Raises ConfigError for a connection that is not the pool's."""
        found = self.known(conn)
        if found is None:
            raise ConfigError(
                f"pool {self.pool.name}: SQLAlchemy has a connection that is not the pool's: leave creator out, a "
                "listener of do_connect must return None, and a connection must not be used after its invocation"
            )
        return found

    def forget(self, conn: Any) -> Borrowed | None:
        """Note that it is no longer lent. Out: what it stood for; None if that was noted already."""
        return self._borrowed.pop(conn, None)

    def give_back(self, conn: Any) -> None:
        """Return it to its pool, if it is still lent."""
        borrowed = self.known(conn)
        if borrowed is None:
            return
        try:
            if borrowed.level_set:  # SQLAlchemy does not take back the level of a detached one
                self.reset_isolation_level(conn)
        finally:
            self.forget(conn)
            borrowed.give_back()

    def _take_back_dropped(self) -> None:
        """Close what was detached and then dropped: otherwise its place would stay taken."""
        for conn, borrowed in self._borrowed.copy().items():
            if borrowed.dropped:
                self.do_terminate(conn)

    # --- opening and closing ------------------------------------------------------------------------------------------

    def connect(self, *args: Any, **arguments: Any) -> Any:
        """The one that the pool is setting up; or borrow one, to replace one that was invalidated."""
        other = sorted(name for name, value in arguments.items() if value != self._arguments.get(name))
        if args or other:
            raise ConfigError(
                f"connect_args with {', '.join(other)} is not valid, neither here nor from a listener of do_connect: "
                "the pool opens the connections. Write Pool(..., connect_args={...}), or auth=... for a token"
            )
        config = self.pool.config
        deadline = Deadline(config.timeout, wake=config.wake_timeout)
        return (self._next.get(current_borrower()) or self.borrow(deadline)).conn

    def do_close(self, dbapi_connection: Any) -> None:
        """Give back: code that has detached a connection closes it."""
        self.give_back(dbapi_connection)

    def do_terminate(self, dbapi_connection: Any) -> None:
        """Close what is broken."""
        borrowed = self.forget(dbapi_connection)
        if borrowed is not None:
            borrowed.discard()

    def initialize(self, connection: Any) -> None:
        """Ask the server what it is. That changes nothing."""
        with self.borrowed(connection.connection).entry.link.uncounted():
            super().initialize(connection)

    # --- transactions -------------------------------------------------------------------------------------------------

    def do_begin(self, dbapi_connection: Any) -> None:
        """Make it read-only each time: what ends a transaction ends that too."""
        if self.readonly:
            self.borrowed(dbapi_connection).begin_read_only()

    def do_commit(self, dbapi_connection: Any) -> None:
        """Bounded by the invocation's end, and honest about what became of it."""
        self.borrowed(dbapi_connection).commit()

    def do_rollback(self, dbapi_connection: Any) -> None:
        """It never fails: if the server cannot be told, the connection is closed. One taken back has nothing open."""
        borrowed = self.known(dbapi_connection)
        if borrowed is not None:
            borrowed.roll_back()

    def is_disconnect(self, e: Any, connection: Any, cursor: Any) -> bool:
        """True also if the pool says so; a failover condemns each connection that is as old as this one."""
        borrowed = self.known(connection)
        if borrowed is not None:
            borrowed.failed_with = id(e)
            borrowed.note_failure(e)
            if self.pool.classify(e) in _GONE:
                return True
        return bool(super().is_disconnect(e, connection, cursor))


def password_shown(url: URL) -> str:
    """The URL as a pool takes it."""
    return url.set(drivername=url.drivername.partition("+")[0]).render_as_string(hide_password=False)


def names_a_host(url: URL) -> bool:
    """Whether a URL names a host, before its path or in its query, where SQLAlchemy has several, and sockets."""
    return bool(url.host) or not url.query.keys().isdisjoint(("host", "unix_socket"))


def without_a_host(url: URL) -> None:
    """Raises ConfigError for a URL that names no host, but something else."""
    # Each connection has it anyway, and Flask-SQLAlchemy writes it into each MySQL URL.
    harmless = {"charset": "utf8mb4"} if url.get_backend_name() == "mysql" else {}
    if url.username or url.database or url.query.items() - harmless.items():
        raise ConfigError(
            f"{url.drivername}:// is not valid with a user, a database or parameters but without a host: add the host, "
            "or remove them to use the pool that the environment describes"
        )
