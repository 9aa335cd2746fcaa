"""`session`: a FastAPI dependency that gives each request a session of SQLAlchemy's, and commits before the answer."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy.orm import Session

from .errors import ConfigError
from .sqlalchemy.sessions import check_engine, lender

__all__ = ["session"]

_NAME = "lambda_pool.fastapi.session: write Depends(session(engine), scope='function')"
"""What FastAPI calls the dependency when it refuses it."""


def _before_the_answer() -> Iterator[None]:
    """Ends before the answer is sent. FastAPI lets nothing depend on it that ends later."""
    yield


_Scope = Annotated[None, Depends(_before_the_answer, scope="function")]


def session(engine: Any, **session_options: Any) -> Callable[..., Any]:
    """A dependency, used as `Depends(session(engine), scope="function")`: one session for each request.

    In: an engine made by `create_engine` (then a `Session`) or `create_async_engine` (an `AsyncSession`), and the
    options of that session; `class_` for another class of it. The session borrows its connection with its first
    statement. It is committed when the route has returned and before its answer is sent, and rolled back when the
    route raises, HTTPException included. Without `scope="function"`, FastAPI would commit after the answer, so it
    refuses the route (`fastapi.exceptions.DependencyScopeError`). Raises ConfigError for a bad argument.
    """
    dependency = _async_session if hasattr(engine, "sync_engine") else _session
    # The same one for the same options: FastAPI opens a session for each dependency that a request meets.
    known = check_engine(getattr(engine, "sync_engine", engine)).dialect.dependencies
    try:
        key = (engine, frozenset(session_options.items()))
        found: Callable[..., Any] | None = known.get(key)
    except TypeError:  # an option that is a dictionary
        return dependency(engine, session_options)
    if found is None:
        found = known[key] = dependency(engine, session_options)
    return found


def _session(engine: Any, options: dict[str, Any]) -> Callable[..., Any]:
    lend = lender(engine, options, eager=False, called="session()")

    def opened(scope: _Scope) -> Iterator[Session]:
        lent, give_back = lend()
        try:
            yield lent
        except BaseException as error:
            give_back(error)
            raise
        give_back(None)

    opened.__name__ = _NAME
    return opened


def _async_session(engine: Any, options: dict[str, Any]) -> Callable[..., Any]:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    if "bind" in options:
        raise ConfigError("bind is not valid in session(): the engine is its first argument; for others, see binds")
    make: async_sessionmaker[AsyncSession] = async_sessionmaker(engine, **options)

    async def opened(scope: _Scope) -> AsyncIterator[AsyncSession]:
        async with make() as lent:
            yield lent
            await lent.commit()  # not reached after an error, and then nothing is saved

    opened.__name__ = _NAME
    return opened
