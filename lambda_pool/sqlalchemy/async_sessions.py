"""What `handler` does with an AsyncEngine: an AsyncSession for each invocation."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker

from ..aio.loop import EnvironmentLoop, environment_loop
from ..signature import Signature
from .sessions import ONCE, is_begun, once, valid

log: logging.Logger = logging.getLogger("lambda_pool")


def once_awaited(
    engine: AsyncEngine, options: dict[str, Any], called: str = "handler()"
) -> async_sessionmaker[AsyncSession]:
    """A factory of sessions that `end` ends. Raises ConfigError for an option that is not valid."""
    with valid(options, called, (AsyncEngine, AsyncConnection)):
        asked = options.get("sync_session_class")
        kind = getattr(options.get("class_"), "sync_session_class", AsyncSession.sync_session_class)
        make = async_sessionmaker(engine, **{**ONCE, **options, "sync_session_class": once(asked or kind)})
        make()
    return make


def end(session: AsyncSession) -> None:
    """End a closed session for good."""
    ended: Any = session.sync_session
    ended.end()


def begin_ahead(session: AsyncSession) -> None:
    """Begin the transaction that the handler's own begin() takes."""
    begun: Any = session.sync_session
    begun.begin_ahead()


def loop_of(engine: AsyncEngine, options: dict[str, Any], *, eager: bool) -> EnvironmentLoop:
    """What runs handlers with a session. `eager`: it borrows before they run. Raises ConfigError."""
    make = once_awaited(engine, options)

    async def lend(signature: Signature) -> tuple[AsyncSession, Callable[[BaseException | None], Awaitable[None]]]:
        session = make()
        if eager:
            try:
                begin_ahead(session)
                await session.connection(bind_arguments={"bind": engine.sync_engine})
            except BaseException:
                await session.close()
                raise

        async def give_back(error: BaseException | None) -> None:
            try:
                if error is None:
                    if is_begun(session.sync_session):
                        await session.commit()
                    return
                try:
                    await session.rollback()
                except Exception as problem:  # noqa: BLE001 - the handler's own error must come out
                    log.debug("pool %s: rolling back a session failed: %s", engine.dialect.name, problem)
            finally:
                await session.close()
                end(session)

        return session, give_back

    return EnvironmentLoop(lend, "an AsyncSession")


def connect_once(engine: AsyncEngine) -> None:
    """Open a connection on the loop of this environment, and give it back."""

    async def connect() -> None:
        async with engine.connect():
            pass

    environment_loop().run_until_complete(connect())
