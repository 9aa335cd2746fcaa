"""The handler decorator: a connection in, clean-up out, and the invocation's deadline in between."""

import functools
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from types import CodeType
from typing import Any, ParamSpec, TypeVar

from . import lifecycle
from .borrower import place
from .endpoints.base import Role
from .errors import ConfigError, ConnectError, CredentialsError, DeadlineExceeded, EndpointError, PoolTimeout
from .injection import code_of, injector, layers, place_of, takes
from .invocation import Limit, running
from .pool import ConnectionPool

P = ParamSpec("P")
R = TypeVar("R")
Unavailable = Callable[[Any, Any, Exception], Any]
"""`on_unavailable(event, context, error)`: its answer becomes the invocation's."""

UNAVAILABLE = (PoolTimeout, DeadlineExceeded, ConnectError, CredentialsError, EndpointError)

_WRITER = Role.WRITER
_EVENT_AND_CONTEXT = 2
_GENERATOR, _COROUTINE = 0x20, 0x80  # inspect.CO_…; inspect itself costs a cold start 10 ms


def decorate(
    find_pool: Callable[[], ConnectionPool],
    fn: Callable[..., R],
    inject: str,
    on_unavailable: Unavailable | None,
) -> Callable[..., R]:
    """Wrap a handler. `find_pool` is called at the first invocation, so that a default pool may be built then."""
    code = _checked(fn, inject, on_unavailable)
    wanted = code is None or takes(code, inject)
    call_with = injector(fn, inject) if wanted else None
    third = place_of(fn, inject) == _EVENT_AND_CONTEXT
    where = f"handler {type(fn).__qualname__}" if code is None else place(code)
    pool: ConnectionPool | None = None

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        nonlocal pool
        me = get_ident()
        outermost = me not in running  # else inside another decorated handler, which does the rest
        plain = len(args) == _EVENT_AND_CONTEXT and not kwargs
        context = args[1] if plain else _event_and_context(args, kwargs)[1]
        disarm, failed, since = None, True, monotonic()
        try:
            if outermost:
                running[me] = context
                if lifecycle.process.cancel_before:
                    disarm = lifecycle.arm()
            if call_with is None or inject in kwargs:
                # A connection that the caller passes itself, as a unit test does, is used as it is.
                result = fn(*args, **kwargs)
                failed = False
                return result
            if pool is None:
                pool = find_pool()
            try:
                entry = pool.acquire(_WRITER, Limit(pool.config.timeout))
            except UNAVAILABLE as error:
                if on_unavailable is None:
                    raise
                result = on_unavailable(_event_and_context(args, kwargs)[0], context, error)
                failed = False
                return result
            entry.where = where
            conn = entry.link.conn
            try:
                # By position where that can be: 1,000 instructions less than by name.
                result = fn(args[0], args[1], conn) if plain and third else call_with(conn, args, kwargs)
            except BaseException as error:
                pool.release(entry, error)
                raise
            pool.release(entry)
            failed = False
            return result
        finally:
            if outermost:
                try:
                    if disarm is not None:
                        disarm()
                    lifecycle.end_invocation(context, since, failed=failed)
                finally:
                    # Whatever a signal handler raises in here: the next invocation must not find this one.
                    running.pop(me, None)

    return wrapper


def _checked(fn: Any, inject: Any, on_unavailable: Any) -> CodeType | None:
    """The handler's code; None if it is written in C. Raises ConfigError for what cannot be decorated."""
    if not callable(fn):
        raise ConfigError(f"the handler must be a function or another callable, not {type(fn).__name__}")
    if not isinstance(inject, str) or not inject.isidentifier():
        raise ConfigError(f"inject={inject!r} is not valid: it must be the name of one of the handler's parameters")
    if on_unavailable is not None and not callable(on_unavailable):
        raise ConfigError(f"on_unavailable={on_unavailable!r} is not valid: it must be callable")
    code = code_of(layers(fn)[-1])
    if code is not None and code.co_flags & _COROUTINE:
        raise ConfigError(
            f"the handler {code.co_name} is 'async def': Lambda's Python runtime calls plain functions only"
        )
    if code is not None and code.co_flags & _GENERATOR:
        raise ConfigError(
            f"the handler {code.co_name} holds a yield: its body would run after its connection was given back; "
            "return what it yields, as a list"
        )
    if code is not None and inject in code.co_varnames[: min(code.co_argcount, _EVENT_AND_CONTEXT)]:
        raise ConfigError(
            f"the handler {code.co_name} takes {inject!r} too early: it must come after the event and the context"
        )
    return code


def _event_and_context(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Both of (event, context), of (self, event, context), or given by name."""
    for index in (1, 2):
        if len(args) > index and hasattr(args[index], "get_remaining_time_in_millis"):
            return args[index - 1], args[index]
    if "context" in kwargs:
        return kwargs.get("event", args[-1] if args else None), kwargs["context"]
    return (args[0] if args else kwargs.get("event")), (args[1] if len(args) > 1 else None)
