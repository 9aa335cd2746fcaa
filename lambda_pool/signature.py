"""What a handler takes, read once when it is decorated, through all other decorators around it."""

import functools
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

from .borrower import place
from .errors import ConfigError

EVENT_AND_CONTEXT = 2
"""How many arguments Lambda passes."""

DURABLE_SDK = "aws_durable_execution_sdk_python"
"""The package of @durable_execution."""

# The values of inspect.CO_…: importing inspect itself costs a cold start 10 ms.
_VAR_POSITIONAL, _VAR_KEYWORDS, _GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x04, 0x08, 0x20, 0x80, 0x200
_DEEPEST = 50
"""The most decorators on one handler. An object that has every attribute seems to wrap itself for ever."""


class Signature:
    """A handler and its parameters. Raises ConfigError if they cannot be known.

    `chain`: the handler and what wraps it, outermost first, its function last. `handler_at`: the index in the chain of
    what the innermost decorator calls (a function, a method, a partial); 0 if nothing wraps it. `wanted`: the handler
    takes the connection; `named`: it takes it by its name. `place`: that parameter's index among the function's
    positional ones, -1 if there is none. `filled`: how many of these are filled before the event (`self`, a partial's
    arguments) in the whole chain; `filled_at_handler`: the same for the handler alone. `depth`: how many decorators
    without functools.wraps are looked through.
    """

    def __init__(self, fn: Any, inject: str, depth: int = 4) -> None:
        self.inject = inject
        self.chain: list[Any] = [fn]
        self.handler_at: int = 0
        self.filled: int = 0
        self.filled_at_handler: int = 0
        self._passed: set[str] = set()
        self._unwrap(depth)
        function = self.chain[-1]
        if not isinstance(function, FunctionType):
            raise ConfigError(
                f"the handler {getattr(function, '__name__', type(fn).__name__)} is written in C, so its parameters "
                f"are not known: decorate a function that calls it, def handler(event, context, {inject})"
            )
        self.code: CodeType = function.__code__
        self.name: str = self.code.co_name
        self.named: bool = inject in _names(self.code) and inject not in self._passed
        self.wanted: bool = self.named or (bool(self.code.co_flags & _VAR_KEYWORDS) and inject not in self._passed)
        self._positional = self.code.co_varnames[: self.code.co_argcount]
        self.place: int = self._positional.index(inject) if self.named and inject in self._positional else -1
        self.by_position: bool = 0 <= self.place < self.code.co_posonlyargcount
        # True in the body of a class, where a function is not yet a method.
        own = not self.filled and self._positional[:1] in {("self",), ("cls",)}
        self._lambdas = self._positional[: self.filled + own + EVENT_AND_CONTEXT]
        self.too_early: bool = 0 <= self.place < len(self._lambdas)
        self.required: list[str] = _required(function)

    def _unwrap(self, depth: int) -> None:
        chain = self.chain
        while len(chain) < _DEEPEST:
            layer = chain[-1]
            if isinstance(layer, MethodType):
                chain.append(layer.__func__)
                self._fill(1)
            elif isinstance(layer, functools.partial):
                chain.append(layer.func)
                self._fill(len(layer.args))
                self._passed |= layer.keywords.keys()
            elif (inner := getattr(layer, "__wrapped__", None)) is not None:
                chain.append(inner)
                if not isinstance(layer, staticmethod):
                    self._begin_handler()
            elif not isinstance(layer, FunctionType) and isinstance(_call_of(layer), FunctionType):
                chain.append(MethodType(_call_of(layer), layer))
            elif isinstance(layer, FunctionType) and depth and (held := self._held(layer, depth)) is not None:
                if len(chain) > 1 and isinstance(chain[-2], MethodType):
                    self.filled -= 1  # the decorator's own `self`, which it does not pass on
                chain.append(held)
                self._begin_handler()
            else:
                return
        raise ConfigError(f"the handler {type(chain[0]).__name__} cannot be decorated: it wraps itself for ever")

    def _fill(self, count: int) -> None:
        self.filled += count
        self.filled_at_handler += count

    def _begin_handler(self) -> None:
        self.handler_at = len(self.chain) - 1
        self.filled_at_handler = 0

    def _held(self, layer: FunctionType, depth: int) -> Any:
        """The handler that a decorator without functools.wraps keeps in its closure or on its object, or None."""
        if self.inject in _names(layer.__code__):
            return None
        held = [cell.cell_contents for cell in cells(layer)]
        around = self.chain[-2] if len(self.chain) > 1 else None
        own = 0
        if isinstance(around, MethodType):
            own = 1
            held += getattr(around.__self__, "__dict__", {}).values()
        handlers, taking = [], []
        for each in held:
            if not callable(each) or isinstance(each, type):
                continue
            try:
                found = Signature(each, self.inject, depth - 1)
            except ConfigError:
                continue
            if found.named and not found.too_early:
                taking.append(each)
            if len(found._lambdas) - found.filled >= EVENT_AND_CONTEXT or found.code.co_flags & _VAR_POSITIONAL:
                handlers.append(each)
        if len(taking) == 1:
            return taking[0]
        hides_all = layer.__code__.co_flags & _VAR_POSITIONAL and layer.__code__.co_argcount == own
        return handlers[0] if hides_all and len(handlers) == 1 else None

    @functools.cached_property
    def where(self) -> str:
        """File and line of the handler, reported if it keeps what it is lent."""
        return place(self.code)

    @property
    def is_coroutine(self) -> bool:
        """True for `async def`."""
        return bool(self.code.co_flags & _COROUTINE)

    def check(self, *, awaited: bool = False) -> None:
        """Raise ConfigError for a handler that cannot be called, or that could not get its connection.

        `awaited`: an `async def` can be called, too.
        """
        inject, name, flags = self.inject, self.name, self.code.co_flags
        if self.is_coroutine and not awaited:
            raise ConfigError(
                f"the handler {name} is 'async def', and this pool is for plain functions: make it an AsyncPool(...) "
                "(pip install 'lambda-pool[asyncio]'), whose handler runs it on an event loop"
            )
        if flags & (_GENERATOR | _ASYNC_GENERATOR):
            raise ConfigError(
                f"the handler {name} holds a yield: its body would run after its connection was given back; "
                "return what it yields, as a list"
            )
        if self.too_early:
            raise ConfigError(
                f"the handler {name} takes {inject!r} too early: it must come after the event and the context"
            )
        if self.by_position and self.place != len(self._lambdas):
            raise ConfigError(
                f"the handler {name} takes {inject!r} by position only, and not right after the event and the context: "
                "move it there, or move the / in front of it"
            )
        if self.named or self.handler_at:
            return  # a decorator may fill the other parameters
        if flags & _VAR_POSITIONAL and not self.wanted and self.filled == len(self._positional):
            raise ConfigError(
                f"the handler {name} takes * alone, which does not say whether it wants the connection: write "
                f"(event, context, {inject}), or (event, context) if it does not"
            )
        unfilled = [each for each in self.required if each not in {*self._lambdas, *self._passed}]
        if unfilled and not self._is_odd_method():
            raise ConfigError(self.not_filled(unfilled[0]))

    def _is_odd_method(self) -> bool:
        """True for a function in a class whose first parameter is not called self: it may still be a method."""
        outer = self.chain[-1].__qualname__.rpartition(".")[0]
        inside = bool(outer) and not outer.endswith("<locals>")
        return inside and not self.filled and len(self._lambdas) == EVENT_AND_CONTEXT

    def not_filled(self, parameter: str) -> str:
        """What to do about a parameter that gets no value."""
        return (
            f"the handler {self.name} takes {parameter!r}, for which nobody passes a value: the connection is passed "
            f"as {self.inject!r}. Write inject={parameter!r} in the decorator's brackets if it should be the "
            "connection. If another decorator fills it, put that one below the pool's, or give the parameter a default"
        )

    def given(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """True if the handler's caller passes a connection itself, as a unit test does."""
        return self.inject in kwargs or 0 <= self.place - self.filled < len(args)

    def explain(self, error: TypeError) -> ConfigError | None:
        """The ConfigError for a call that failed because a parameter was missing or unknown; None for other errors."""
        called, _, complaint = str(error).partition("() ")
        names = {name for name in complaint.split("'")[1::2] if name.isidentifier()}
        if "unexpected keyword argument" in complaint and names == {self.inject} and not self.named:
            return ConfigError(self.not_passed_on(self.name))
        if not complaint.startswith("missing ") or names & set(self._lambdas):
            return None
        if called == self.chain[-1].__qualname__:
            lacking = [name for name in self.required if name in names]
            if self.inject in lacking:
                return ConfigError(self.not_passed_on(self.name))
            return ConfigError(self.not_filled(lacking[0])) if lacking else None
        if names == {self.inject} and not self.named and _raised_in(error) is self.code:
            return ConfigError(self.not_passed_on(called.rpartition(".")[2]))
        return None

    def not_passed_on(self, name: str = "") -> str:
        """What to do about a decorator that keeps the connection from the handler."""
        return (
            f"the connection could not be handed to {name or self.name}: a decorator between it and the pool's does "
            f"not pass {self.inject!r} on. Make it pass **kwargs on, with functools.wraps, or put it above the pool's"
        )


def accepts(layer: Any, name: str) -> bool:
    """True if a layer of a chain takes `name` as a keyword, as far as that can be seen."""
    code = getattr(layer if isinstance(layer, FunctionType) else _call_of(layer), "__code__", None)
    if not isinstance(code, CodeType):
        return True
    return bool(code.co_flags & _VAR_KEYWORDS) or name in _names(code)[code.co_posonlyargcount :]


def cells(fn: Any, depth: int = 1) -> Iterator[CellType]:
    """The variables in a function's closure that have a value, and in those of the functions in it, this deep."""
    for cell in getattr(fn, "__closure__", None) or ():
        try:
            content = cell.cell_contents
        except ValueError:  # a variable that has no value yet
            continue
        yield cell
        if depth > 1:
            yield from cells(content, depth - 1)


def _call_of(layer: Any) -> Any:
    """The `__call__` of a callable object's class."""
    return type(layer).__call__


def _names(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _required(function: FunctionType) -> list[str]:
    """The parameters that have no default."""
    code = function.__code__
    count, optional = code.co_argcount - len(function.__defaults__ or ()), function.__kwdefaults__ or {}
    return [*code.co_varnames[:count], *(name for name in _names(code)[code.co_argcount :] if name not in optional)]


def _raised_in(error: BaseException) -> CodeType | None:
    """The code that raised an error."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code if traceback is not None else None
