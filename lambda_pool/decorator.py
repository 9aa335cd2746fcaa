"""The handler decorator: a connection in, clean-up out, and the invocation's deadline in between."""

import functools
import sys
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from types import FunctionType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from . import lifecycle
from .endpoints.base import Role
from .errors import ConfigError, LambdaPoolError
from .finished import finished
from .injection import Call, injector
from .invocation import Deadline, running
from .pool import ConnectionPool
from .request import UNAVAILABLE
from .signature import DURABLE_SDK, EVENT_AND_CONTEXT, Signature

if TYPE_CHECKING:
    from .aio.loop import EnvironmentLoop as Loop

R = TypeVar("R")
Unavailable = Callable[[Any, Any, LambdaPoolError], Any]
"""`on_unavailable(event, context, error)`: its answer becomes the invocation's."""

Lend = Callable[[Signature], tuple[Any, Callable[[BaseException | None], None]]]
"""Gives what the handler gets, and a function to call afterwards with the handler's error (None if it ended well)."""


_WRITER = Role.WRITER
_SEE_THROUGH = (MethodType, functools.partial)
_lent_by: WeakKeyDictionary[Any, tuple[object, str]] = WeakKeyDictionary()
"""For each decorated handler: whose connection it is given, and as which parameter."""


def decorate(
    fn: Callable[..., Any] | None,
    inject: str,
    on_unavailable: Unavailable | None,
    lend: Lend | None = None,
    loop: "Loop | None" = None,
    *,
    whose: object = None,
) -> Any:
    """Wrap a handler; without one, give a decorator. `lend` gives the handler what it takes (None: it takes nothing).

    `loop` does that for an `async def`, and runs it. `whose` is the pool or engine that decorates; a second decoration
    by the same one is refused.
    """
    wrap = functools.partial(_wrap, inject=inject, on_unavailable=on_unavailable, lend=lend, loop=loop, whose=whose)
    return wrap if fn is None else wrap(fn)


def _wrap(
    fn: Callable[..., R],
    inject: str,
    on_unavailable: Unavailable | None,
    lend: Lend | None,
    loop: "Loop | None",
    whose: object,
) -> Callable[..., R]:
    _check(fn, inject, on_unavailable)
    signature = Signature(fn, inject)
    signature.check(awaited=loop is not None)
    call = _caller(signature, on_unavailable, lend, loop, whose)
    if call is None and on_unavailable is not None:
        raise ConfigError(
            f"on_unavailable=... would never be called for the handler {signature.name}, because nothing is borrowed "
            f"before it runs: take the parameter {inject!r}, or leave on_unavailable out and catch the pool's errors "
            "where you borrow"
        )

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> R:
        me = get_ident()
        outermost = me not in running  # otherwise inside another decorated handler, which does the rest
        plain = len(args) == EVENT_AND_CONTEXT and not kwargs
        context = args[1] if plain else event_and_context(args, kwargs)[1]
        durable = not hasattr(context, "get_remaining_time_in_millis") and hasattr(context, "lambda_context")
        if durable:
            context = context.lambda_context
        disarm, failed, since = None, True, monotonic()
        try:
            if outermost:
                disarm = lifecycle.begin_invocation(context, since)
            seen = loop is not None and not outermost  # the outer one may await it and look at it
            if call is None or (not plain and signature.given(args, kwargs)):
                start = functools.partial(fn, *args, **kwargs)
            elif durable:
                from .stacking import refused_durable

                raise refused_durable(signature.name)
            else:
                start, seen = functools.partial(call, args, kwargs), True
            result = start() if loop is None else loop.run(start, nested=not outermost)
            result = result if seen else finished("handler", signature.name, result)
            failed = False
        except TypeError as error:
            explained = signature.explain(error)
            if explained is None:
                raise
            raise explained from error
        finally:
            if outermost:
                try:
                    if disarm is not None:
                        disarm()
                    lifecycle.end_invocation(context, since, failed=failed)
                except BaseException:
                    # A signal handler may have broken it off: nothing may stay lent.
                    lifecycle.take_back(since)
                    raise
                finally:
                    # Even if a signal handler raises in here, the next invocation must not find this one.
                    running.pop(me, None)
        return result

    if call is not None:
        _mark(wrapper, signature, whose)
    # A plain function in a class would get the object that it is called on as its event.
    return staticmethod(wrapper) if isinstance(fn, staticmethod) else wrapper


def _mark(wrapper: Any, signature: Signature, whose: object) -> None:
    """Note on a decorated handler what the decorators above it must know."""
    _lent_by[wrapper] = whose, signature.inject
    if DURABLE_SDK in sys.modules:
        from .stacking import Attributes

        wrapper.__dict__ = Attributes(wrapper.__dict__, signature.name)


def is_lent(handler: Any) -> bool:
    """True for a decorated handler that gets a connection from the pool of its decorator."""
    return isinstance(handler, FunctionType) and handler in _lent_by


def _lends_below(signature: Signature, whose: object) -> bool:
    """True if the function that the handler calls is given its connection by a pool's decorator.

    Raises ConfigError if that function is the handler itself, decorated twice: it would take two connections and use
    one.
    """
    for at, layer in enumerate(signature.chain):
        lender, inject = _lent_by[layer] if is_lent(layer) else (None, "")
        if inject != signature.inject:
            continue
        # Otherwise its caller may not be a decorator, but a function that chooses among handlers.
        if all(isinstance(each, _SEE_THROUGH) or hasattr(each, "__wrapped__") for each in signature.chain[:at]):
            raise ConfigError(
                f"the handler {signature.name} is decorated twice by the same pool, and would take two connections for "
                f"one {inject!r}: remove one of the two decorators"
                if lender == whose
                else f"the handler {signature.name} is decorated by two pools, and would take two connections for one "
                f"{inject!r}: write two parameters, and inject='...' in one of the two decorators"
            )
        return True
    return False


def _caller(
    signature: Signature,
    on_unavailable: Unavailable | None,
    lend: Lend | None,
    loop: "Loop | None",
    whose: object,
) -> Callable[[tuple[Any, ...], dict[str, Any]], Any] | None:
    """A function that calls the handler with what it is lent; None if it takes nothing."""
    if _lends_below(signature, whose):
        return None
    if loop is not None:
        return loop.lending(signature, on_unavailable)
    if lend is None or not signature.wanted:
        return None
    return _lending(lend, signature, on_unavailable)


def connections(find_pool: Callable[[], ConnectionPool]) -> Lend:
    """A function that lends a handler a connection. The pool is looked for at the first invocation."""
    pool: ConnectionPool | None = None

    def lend(signature: Signature) -> tuple[Any, Callable[[BaseException | None], None]]:
        nonlocal pool
        if pool is None:
            pool = find_pool()
        entry = pool.acquire(_WRITER, Deadline(pool.config.timeout, wake=pool.config.wake_timeout))
        entry.where = signature.where
        return entry.link.driver_connection, functools.partial(pool.release, entry)

    return lend


def _lending(
    lend: Lend, signature: Signature, on_unavailable: Unavailable | None
) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """A function that calls the handler with what it is lent. Raises ConfigError if that cannot or must not be done."""
    call_with = handing_over(signature)

    def call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            lent, give_back = lend(signature)
        except UNAVAILABLE as error:
            if on_unavailable is None:
                raise
            return on_unavailable(*event_and_context(args, kwargs), error)
        try:
            result = finished("handler", signature.name, call_with(lent, args, kwargs))
        except BaseException as error:
            give_back(error)
            raise
        give_back(None)
        return result

    return call


def handing_over(signature: Signature) -> Call:
    """A `call(value, args, kwargs)` of the whole chain. Raises ConfigError if that cannot or must not be done."""
    if signature.handler_at:
        from .stacking import refuse

        refuse(signature)
    return injector(signature)


def _check(fn: Any, inject: Any, on_unavailable: Any) -> None:
    """Raise ConfigError if `fn` is not a handler, or for a bad argument of the decorator itself."""
    if not callable(fn):
        hint = ": put @classmethod above the pool's decorator" if isinstance(fn, classmethod) else ""
        raise ConfigError(f"the handler must be a function or another callable, not {type(fn).__name__}{hint}")
    if isinstance(fn, type):
        raise ConfigError(f"the handler must be a function or another callable, not the class {fn.__name__}")
    if not isinstance(inject, str) or not inject.isidentifier():
        raise ConfigError(f"inject={inject!r} is not valid: it must be the name of one of the handler's parameters")
    if on_unavailable is not None and not callable(on_unavailable):
        raise ConfigError(f"on_unavailable={on_unavailable!r} is not valid: it must be callable")


def event_and_context(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The event and the context out of (event, context), (self, event, context) or keywords."""
    for index in (1, 2):
        if len(args) > index and (
            hasattr(args[index], "get_remaining_time_in_millis") or hasattr(args[index], "lambda_context")
        ):
            return args[index - 1], args[index]
    if "context" in kwargs:
        return kwargs.get("event", args[-1] if args else None), kwargs["context"]
    return (args[0] if args else kwargs.get("event")), (args[1] if len(args) > 1 else None)
