"""What a type checker makes of a decorated handler: its own signature, without the connection that it is given.

Nothing here runs. A checker takes the first form that fits. It goes by position, because no name can be taken out of a
signature: the connection (or session) is the parameter after `event` and `context`, or a keyword of its own.
"""

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from .decorator import Unavailable

Given_co = TypeVar("Given_co", covariant=True)
Given_contra = TypeVar("Given_contra", contravariant=True)
Instance = TypeVar("Instance")
Event = TypeVar("Event")
Context = TypeVar("Context")
Event_contra = TypeVar("Event_contra", contravariant=True)
Context_contra = TypeVar("Context_contra", contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")
Plain = TypeVar("Plain", bound=Callable[[Any, Any], Any])
"""A handler that takes no connection. If it matched other handlers too, two overloads would match one with `Any` in its
signature, such as `dict[str, Any]`, and mypy would make the decorated handler `Any`."""


class TakesConn(Protocol[Event_contra, Context_contra, Given_contra, R_co]):
    """A handler whose connection is a keyword of its own, `conn`."""

    def __call__(self, event: Event_contra, context: Context_contra, /, *, conn: Given_contra) -> R_co:
        """Handle one event."""
        ...


class TakesSession(Protocol[Event_contra, Context_contra, Given_contra, R_co]):
    """A handler whose session is a keyword of its own, `session`."""

    def __call__(self, event: Event_contra, context: Context_contra, /, *, session: Given_contra) -> R_co:
        """Handle one event."""
        ...


class Decorator(Protocol[Given_co]):
    """What `handler()` returns when it is called without a function: a decorator that takes one."""

    @overload
    def __call__(self, fn: Callable[[Event, Context, Given_co], R], /) -> Callable[[Event, Context], R]: ...
    @overload
    def __call__(
        self, fn: Callable[[Instance, Event, Context, Given_co], R], /
    ) -> Callable[[Instance, Event, Context], R]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[Event, Context, Given_co, P], R], /
    ) -> Callable[Concatenate[Event, Context, P], R]: ...
    @overload
    def __call__(self, fn: TakesConn[Event, Context, Given_co, R], /) -> Callable[[Event, Context], R]: ...
    @overload
    def __call__(self, fn: TakesSession[Event, Context, Given_co, R], /) -> Callable[[Event, Context], R]: ...
    @overload
    def __call__(self, fn: Plain, /) -> Plain: ...
    def __call__(self, fn: Any, /) -> Any:
        """Decorate the function."""
        ...


class NamedDecorator(Protocol[Given_co]):
    """The same for another name in `inject`: a keyword of that name cannot be told from the others."""

    @overload
    def __call__(self, fn: Callable[[Event, Context, Given_co], R], /) -> Callable[[Event, Context], R]: ...
    @overload
    def __call__(
        self, fn: Callable[[Instance, Event, Context, Given_co], R], /
    ) -> Callable[[Instance, Event, Context], R]: ...
    @overload
    def __call__(
        self, fn: Callable[Concatenate[Event, Context, Given_co, P], R], /
    ) -> Callable[Concatenate[Event, Context, P], R]: ...
    @overload
    def __call__(self, fn: Callable[[Event, Context], R], /) -> Callable[[Event, Context], R]: ...
    @overload
    def __call__(self, fn: Callable[..., R], /) -> Callable[..., R]: ...
    def __call__(self, fn: Any, /) -> Any:
        """Decorate the function."""
        ...


class HandlerDecorator(Protocol[Given_co]):
    """`handler` of a pool or of the package, called with a function, or with settings for one that follows."""

    @overload
    def __call__(
        self,
        fn: None = None,
        *,
        on_unavailable: Unavailable | None = None,
    ) -> Decorator[Given_co]: ...
    @overload
    def __call__(
        self,
        fn: None = None,
        *,
        inject: str,
        on_unavailable: Unavailable | None = None,
    ) -> NamedDecorator[Given_co]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Event, Context, Given_co], R],
        *,
        inject: str = "conn",
        on_unavailable: Unavailable | None = None,
    ) -> Callable[[Event, Context], R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[[Instance, Event, Context, Given_co], R],
        *,
        inject: str = "conn",
        on_unavailable: Unavailable | None = None,
    ) -> Callable[[Instance, Event, Context], R]: ...
    @overload
    def __call__(
        self,
        fn: Callable[Concatenate[Event, Context, Given_co, P], R],
        *,
        inject: str = "conn",
        on_unavailable: Unavailable | None = None,
    ) -> Callable[Concatenate[Event, Context, P], R]: ...
    @overload
    def __call__(
        self,
        fn: TakesConn[Event, Context, Given_co, R],
        *,
        on_unavailable: Unavailable | None = None,
    ) -> Callable[[Event, Context], R]: ...
    @overload
    def __call__(
        self,
        fn: Plain,
        *,
        on_unavailable: Unavailable | None = None,
    ) -> Plain: ...
    @overload
    def __call__(
        self,
        fn: Callable[..., R],
        *,
        inject: str,
        on_unavailable: Unavailable | None = None,
    ) -> Callable[..., R]: ...
    def __call__(self, fn: Any = None, *, inject: str = "conn", on_unavailable: Unavailable | None = None) -> Any:
        """Decorate a handler."""
        ...
