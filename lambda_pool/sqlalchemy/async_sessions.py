"""What `handler` does with an AsyncEngine: an AsyncSession for each invocation."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from .. import config as configuration
from ..aio.loop import EnvironmentLoop, environment_loop
from ..errors import ConfigError
from ..signature import Signature
from .sessions import ONCE, is_begun, once

log: logging.Logger = logging.getLogger("lambda_pool")


def once_awaited(engine: AsyncEngine, options: dict[str, Any]) -> async_sessionmaker[AsyncSession]:
    """What makes sessions that `end` ends. Raises TypeError for an option that is not valid."""
    asked = options.get("sync_session_class")
    kind = getattr(options.get("class_"), "sync_session_class", AsyncSession.sync_session_class)
    return async_sessionmaker(engine, **{**ONCE, **options, "sync_session_class": once(asked or kind)})


def end(session: AsyncSession) -> None:
    """End a session for good, which is closed."""
    ended: Any = session.sync_session
    ended.end()


def begin_ahead(session: AsyncSession) -> None:
    """Begin the transaction that the handler's own begin() takes."""
    begun: Any = session.sync_session
    begun.begin_ahead()


def loop_of(engine: AsyncEngine, options: dict[str, Any], *, eager: bool) -> EnvironmentLoop:
    """What runs handlers with a session. `eager`: it borrows before they run. Raises ConfigError."""
    try:
        make = once_awaited(engine, options)
        make()
    except TypeError as error:
        raise ConfigError(f"handler() was given an option that is not valid for a session: {error}") from error

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
                except Exception as problem:  # noqa: BLE001 - the handler's own error is to come out
                    log.debug("pool %s: rolling back a session failed: %s", engine.dialect.name, problem)
            finally:
                await session.close()
                end(session)

        return session, give_back

    return EnvironmentLoop(lend, "an AsyncSession")


def warm_ahead(engine: AsyncEngine) -> None:
    """Under provisioned concurrency Init is paid for and nobody waits: the first session finds its connection."""
    if configuration.lambda_initialization() != "provisioned-concurrency":
        return

    async def connect() -> None:
        async with engine.connect():
            pass

    try:
        environment_loop().run_until_complete(connect())
    except Exception as error:  # noqa: BLE001 - the first invocation tries again
        log.warning("a connection could not be opened in advance; the first invocation tries again: %s", error)
