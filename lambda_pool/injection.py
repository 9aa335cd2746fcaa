"""Handing the connection to a handler that other decorators have wrapped.

This is a trick, and here is its reason: not every decorator passes keyword arguments on (Powertools' `event_source`
takes none), and some call the handler in a thread of their own. So a connection given to the outermost one may never
arrive. Therefore the handler is replaced by one that adds the connection, in the one place where the innermost
decorator keeps it: a variable of its closure, or an attribute of its object. All of the trick is in this file.
"""

import functools
from collections.abc import Callable
from contextvars import ContextVar
from types import MethodType
from typing import Any

from .errors import ConfigError
from .signature import Signature, accepts, cells

_DEPTH = 3
"""How many functions deep a closure is searched: a decorator's wrapper and the helpers that it calls (ours has two)."""

Call = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def injector(signature: Signature) -> Call:
    """A `call(connection, args, kwargs)` of the whole chain, in which the handler gets the connection.

    Raises ConfigError if a decorator in between would not pass it on.
    """
    fn, name = signature.chain[0], signature.inject
    if signature.handler_at:
        bound = _Bound(signature)
        if bound.take_its_place():
            return bound.await_chain if signature.is_coroutine else bound.call_chain
        if signature.by_position or not all(accepts(layer, name) for layer in signature.chain[:-1]):
            raise ConfigError(signature.not_passed_on())
    if signature.by_position:

        def call_by_position(conn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return fn(*args, conn, **kwargs)

        return call_by_position

    def call_by_name(conn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kwargs[name] = conn  # the decorator's own dictionary, and nobody else's
        return fn(*args, **kwargs)

    return call_by_name


class _Bound:
    """What the innermost decorator calls in the handler's place."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature
        self.handler = signature.chain[signature.handler_at]
        self.place = signature.place - signature.filled_at_handler
        self.pending: dict[int, Any] = {}
        """The connection of each call that runs now, by the connection's `id`."""
        self.mine: ContextVar[Any] = ContextVar("lambda_pool_connection", default=None)
        """The connection of the call that runs here, in this thread or task."""
        functools.update_wrapper(self, self.handler)

    def call_chain(self, conn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the outermost decorator; the handler gets `conn`."""
        outer = self._lend(conn)  # the outer call's, if a handler calls itself
        try:
            return self.signature.chain[0](*args, **kwargs)
        finally:
            self._take_back(conn, outer)

    async def await_chain(self, conn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The same for an `async def`, whose decorators call it only while they are awaited."""
        outer = self._lend(conn)
        try:
            result = self.signature.chain[0](*args, **kwargs)
            # A decorator may answer without calling the handler.
            return await result if hasattr(result, "__await__") else result
        finally:
            self._take_back(conn, outer)

    def _lend(self, conn: Any) -> Any:
        outer = self.mine.get()
        self.pending[id(conn)] = conn
        self.mine.set(conn)
        return outer

    def _take_back(self, conn: Any, outer: Any) -> None:
        self.pending.pop(id(conn), None)
        self.mine.set(outer)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        name = self.signature.inject
        conn = None if name in kwargs or 0 <= self.place < len(args) else self._mine()
        if conn is None:
            return self.handler(*args, **kwargs)
        if self.signature.by_position:
            return self.handler(*args, conn, **kwargs)
        kwargs[name] = conn
        return self.handler(*args, **kwargs)

    def _mine(self) -> Any:
        """The connection for the call of the handler that begins now; None outside of an invocation."""
        signature, mine = self.signature, self.mine.get()
        if id(mine) in self.pending:
            return mine
        running = list(self.pending.values())
        if len(running) > 1:
            raise ConfigError(
                f"a decorator calls the handler {signature.name} in a thread while several invocations run, so it is "
                "not known whose connection it should get. Put that decorator above the pool's"
            )
        if not running and signature.inject in signature.required and not isinstance(self.handler, _Bound):
            raise ConfigError(
                f"the handler {signature.name} was called after its invocation had ended, or without going through the "
                f"pool's decorator: there is no connection for {signature.inject!r} then"
            )
        return running[0] if running else None

    def take_its_place(self) -> bool:
        """Put this object where the innermost decorator keeps the handler. False if that cannot be found."""
        around = self.signature.chain[: self.signature.handler_at]
        owner = around[-1]
        if len(around) > 1 and isinstance(around[-2], MethodType):
            owner = around[-2].__self__
        found = False
        for cell in cells(around[-1], _DEPTH):
            if self._is_handler(cell.cell_contents):
                self.handler, cell.cell_contents, found = cell.cell_contents, self, True
        attributes = getattr(owner, "__dict__", {})
        for name, value in list(attributes.items()):
            if self._is_handler(value) and name != "__wrapped__":
                self.handler, attributes[name], found = value, self, True
        return found

    def _is_handler(self, content: Any) -> bool:
        """True also if another pool has put its own object there."""
        while isinstance(content, _Bound):
            content = content.handler
        return content is self.signature.chain[self.signature.handler_at]
