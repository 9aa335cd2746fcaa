"""`handler`: a session for each invocation."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session, sessionmaker

from .. import config as configuration
from ..decorator import Unavailable, decorate
from ..errors import ConfigError
from .dialect import PooledDialect

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from ..decorated import Decorator, NamedDecorator

log: logging.Logger = logging.getLogger("lambda_pool")

# Loaded wherever there is an AsyncEngine.
_ASYNCIO = "sqlalchemy.ext.asyncio"

Event = TypeVar("Event")
Context = TypeVar("Context")
R = TypeVar("R")


@overload
def handler(
    engine: "AsyncEngine",
    fn: Callable[..., Any],
    *,
    inject: str = "session",
    on_unavailable: Unavailable | None = None,
    **session_options: Any,
) -> Callable[..., Any]: ...


@overload
def handler(
    engine: "AsyncEngine",
    fn: None = None,
    *,
    inject: str = "session",
    on_unavailable: Unavailable | None = None,
    **session_options: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]: ...


@overload
def handler(
    engine: Engine,
    fn: None = None,
    *,
    inject: str,
    on_unavailable: Unavailable | None = None,
    **session_options: Any,
) -> "NamedDecorator[Any]": ...


@overload
def handler(
    engine: Engine,
    fn: None = None,
    *,
    on_unavailable: Unavailable | None = None,
    **session_options: Any,
) -> "Decorator[Any]": ...


@overload
def handler(
    engine: Engine,
    fn: Callable[[Event, Context, Any], R],
    *,
    inject: str = "session",
    on_unavailable: Unavailable | None = None,
    **session_options: Any,
) -> Callable[[Event, Context], R]: ...


@overload
def handler(
    engine: Engine,
    fn: Callable[..., R],
    *,
    inject: str = "session",
    on_unavailable: Unavailable | None = None,
    **session_options: Any,
) -> Callable[..., R]: ...


def handler(
    engine: Any,
    fn: Callable[..., Any] | None = None,
    *,
    inject: str = "session",
    on_unavailable: Unavailable | None = None,
    **session_options: Any,
) -> Any:
    """Decorate a Lambda handler: a `Session` as `inject`, commit or rollback, deadline, clean-up, metrics.

    With an AsyncEngine, made by `create_async_engine`, an `async def` gets an `AsyncSession`.
    In: an engine made by `create_engine`, or with a `…+lambda_pool://` URL; the options of `sqlalchemy.orm.Session`,
    and `class_` for another class of sessions. The session borrows its connection with its first statement, so an
    invocation without one waits for nothing. With `on_unavailable(event, context, error)`, which answers instead of
    raising when no connection can be had, it borrows before the handler runs. Raises ConfigError for a bad argument.
    """
    check_engine(engine, also_awaited=True)
    eager = on_unavailable is not None
    lend, loop = None, None
    if isinstance(engine, Engine):
        lend = lender(engine, session_options, eager=eager)
        _warm_ahead(lambda: engine.connect().close())
    else:
        from .async_sessions import connect_once, loop_of

        loop = loop_of(engine, session_options, eager=eager)
        _warm_ahead(lambda: connect_once(engine))
    return decorate(fn, inject, on_unavailable, lend, loop, whose=engine)


def check_engine(engine: Any, *, also_awaited: bool = False) -> Any:
    """Return the engine; `also_awaited`: it may be an AsyncEngine. Raises ConfigError for one that is not on a pool."""
    kinds = Engine | sys.modules[_ASYNCIO].AsyncEngine if also_awaited and _ASYNCIO in sys.modules else Engine
    if not isinstance(engine, kinds) or not isinstance(engine.dialect, PooledDialect):
        raise ConfigError(
            f"engine is not valid: it must be made by lambda_pool.sqlalchemy.create_engine(), not {_shown(engine)}"
        )
    return engine


@contextmanager
def valid(options: dict[str, Any], called: str, binds: tuple[type, ...] = (Engine, Connection)) -> Iterator[None]:
    """In this block a session is made with these options. `binds`: what it can work on.

    Raises ConfigError for an option that names an engine, for a class of sessions that is not a class, and for what
    SQLAlchemy refuses.
    """
    if "bind" in options:
        raise ConfigError(
            f"bind is not valid in {called}: the engine is its first argument. For several engines, use binds"
        )
    for name in ("class_", "sync_session_class"):
        if not isinstance(options.get(name, Session), type):
            raise ConfigError(
                f"{name} is not valid in {called}: it must be a class of sessions, not {type(options[name]).__name__}. "
                f"Give the options of a sessionmaker to {called} itself"
            )
    given = options.get("binds") or {}
    # Not shown: it may be a URL with a password.
    if not isinstance(given, Mapping) or not all(isinstance(each, binds) for each in given.values()):
        raise ConfigError(
            f"binds is not valid in {called}: it must be a dict whose values are each an {binds[0].__name__}"
        )
    try:
        yield
    except (TypeError, ArgumentError) as error:
        raise ConfigError(f"{called} was given an option that is not valid for a session: {error}") from error


def _shown(engine: Any) -> str:
    return f"an engine of {engine.url.drivername}" if isinstance(engine, Engine) else type(engine).__name__


def lender(engine: Engine, options: dict[str, Any], *, eager: bool, called: str = "handler()") -> Callable[..., Any]:
    """A function that makes a session for each invocation, and returns what ends it."""
    with valid(options, called):
        kind = once(options.get("class_", Session))
        make: sessionmaker[Any] = sessionmaker(engine, **{**ONCE, **options, "class_": kind})
        make().close()

    def lend(signature: object = None) -> tuple[Any, Callable[[BaseException | None], None]]:
        session = make()
        if eager:
            try:
                session.begin_ahead()
                session.connection(bind_arguments={"bind": engine})
            except BaseException:
                session.close()
                raise

        def give_back(error: BaseException | None) -> None:
            try:
                if error is None:
                    if is_begun(session):
                        session.commit()
                    return
                try:
                    session.rollback()
                except Exception as problem:  # noqa: BLE001 - the handler's own error must come out
                    log.debug("pool %s: rolling back a session failed: %s", engine.dialect.name, problem)
            finally:
                session.end()

        return session, give_back

    return lend


ONCE = {"close_resets_only": False}
"""The option that makes a session's end final: using it later, in a background task, raises an error."""


def once(kind: Any) -> Any:
    """The same class of sessions, which may be closed, or invalidated, and used again until `end` is called.

    The handler's own begin() takes over what `begin_ahead` has begun. Raises TypeError for what is not a class.
    """

    def close(self: Any) -> None:
        self.reset()

    def invalidate(self: Any) -> None:
        while (nested := self.get_nested_transaction()) is not None:
            nested.close()
        outermost = self.get_transaction()
        if outermost is not None:
            outermost.close(invalidate=True)
        self.reset()

    def end(self: Any) -> None:
        kind.close(self)

    def begin_ahead(self: Any) -> None:
        self.begun_ahead = kind.begin(self)

    def begin(self: Any, nested: bool = False) -> Any:
        ahead, self.begun_ahead = self.begun_ahead, None
        if ahead is not None and not nested and ahead is self.get_transaction():
            return ahead
        return kind.begin(self, nested)

    own = {
        "__module__": kind.__module__,
        "close": close,
        "invalidate": invalidate,
        "end": end,
        "begin": begin,
        "begin_ahead": begin_ahead,
        "begun_ahead": None,
    }
    return type(kind.__name__, (kind,), own)


def is_begun(session: Session) -> bool:
    """False if there is nothing to commit, and commit() would raise: with `autobegin=False`, after the last block."""
    return session.autobegin or session.in_transaction()


def _warm_ahead(connect: Callable[[], None]) -> None:
    """Open the first session's connection under provisioned concurrency: Init is paid for, and nobody waits."""
    if configuration.lambda_initialization() != "provisioned-concurrency":
        return
    try:
        connect()
    except Exception as error:  # noqa: BLE001 - the first invocation tries again
        log.warning("a connection could not be opened in advance; the first invocation tries again: %s", error)
