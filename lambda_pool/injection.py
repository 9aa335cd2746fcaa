"""Passing the connection to a handler that other decorators have wrapped.

Not every decorator passes keyword arguments on (Powertools' `event_source` takes none), so that a keyword given to the
outermost layer may never arrive. The connection is therefore bound where the innermost function is called: in the
closure of the layer just around it.
"""

import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import CellType, CodeType, FunctionType
from typing import Any

# inspect.CO_VARKEYWORDS; inspect itself costs a cold start 10 ms.
_VAR_KEYWORDS = 0x08

# How many functions deep a closure is searched: a decorator's wrapper and the helpers that it calls (ours has two).
_DEPTH = 3


def layers(fn: Any) -> list[Any]:
    """`fn` and all that it wraps, outermost first."""
    found = [fn]
    while True:
        inner = getattr(fn, "__wrapped__", None) or getattr(fn, "__func__", None)
        if inner is None and type(fn) is functools.partial:
            inner = fn.func
        if inner is None:
            return found
        found.append(inner)
        fn = inner


def code_of(fn: Any) -> CodeType | None:
    """The code of a function or of a callable object; None for callables written in C."""
    code = getattr(fn, "__code__", None) or getattr(type(fn).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None


def takes(code: CodeType, name: str) -> bool:
    """True if the code takes `name` as a keyword."""
    named = code.co_varnames[code.co_posonlyargcount : code.co_argcount + code.co_kwonlyargcount]
    return name in named or bool(code.co_flags & _VAR_KEYWORDS)


def injector(fn: Callable[..., Any], name: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]:
    """A `call(connection, args, kwargs)` that calls `fn` so that its innermost layer gets `name=connection`."""
    chain = layers(fn)
    pending: ContextVar[Any] = ContextVar("lambda_pool_injected", default=None)
    if len(chain) == 1 or not _bind(chain[-2], chain[-1], name, pending):

        def call_directly(conn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            kwargs[name] = conn  # the decorator's own dictionary, and nobody else's
            return fn(*args, **kwargs)

        return call_directly

    def call(conn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        token = pending.set(conn)
        try:
            return fn(*args, **kwargs)
        finally:
            pending.reset(token)

    return call


def place_of(fn: Any, name: str) -> int:
    """How many positional arguments come before `name`, in a plain function; -1 if it is none of them."""
    if type(fn) is not FunctionType or hasattr(fn, "__wrapped__"):
        return -1
    code = fn.__code__
    positional = code.co_varnames[: code.co_argcount]
    return positional.index(name) if name in positional else -1


def _bind(layer: Any, inner: Any, name: str, pending: "ContextVar[Any]") -> bool:
    """Make `layer` call `inner` with what is pending. False if its closure does not hold `inner`."""
    cells = [cell for cell in _cells(layer, _DEPTH) if cell.cell_contents is inner]

    @functools.wraps(inner)
    def bound(*args: Any, **kwargs: Any) -> Any:
        conn = pending.get()
        if conn is not None:
            kwargs.setdefault(name, conn)
        return inner(*args, **kwargs)

    for cell in cells:
        cell.cell_contents = bound
    return bool(cells)


def _cells(fn: Any, depth: int) -> Iterator[CellType]:
    for cell in getattr(fn, "__closure__", None) or ():
        try:
            content = cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
        yield cell
        if depth > 1 and hasattr(content, "__closure__"):
            yield from _cells(content, depth - 1)
