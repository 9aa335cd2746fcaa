"""Whether a function that was given a connection has run, or returned something that would run later without it."""

from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeVar

from .errors import ConfigError

R = TypeVar("R")

_NOT_YET_RUN = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})
_OF_PARTS = frozenset({zip, enumerate, reversed})
_CONTAINERS = frozenset({"builtins", "collections", "_collections"})
# Files and streams end by themselves. A driver's or SQLAlchemy's result has its rows, or is left over from a statement.
_HELD_OPEN = ("read", "write", "fetchmany")


def finished(kind: str, name: str, result: R) -> R:
    """The result of a function of this kind and name. Raises ConfigError if its body is yet to run."""
    found = type(result)
    if found in _NOT_YET_RUN or ((hasattr(found, "__next__") or hasattr(found, "__anext__")) and _is_lazy(result)):
        if isinstance(result, CoroutineType | GeneratorType):
            result.close()  # or Python warns that nobody awaited it
        raise ConfigError(
            f"the {kind} {name} returned a {found.__name__}, whose body would run after its connection was "
            "given back: return a list, or what asyncio.run(...) returns"
        )
    return result


def _is_lazy(value: Any) -> bool:
    """True for an iterator that computes its values later: a generator, a `map`, one of itertools or the user's own.

    False for an iterator over a list or another container, which already has its values.
    """
    found = type(value)
    if not (hasattr(found, "__next__") or hasattr(found, "__anext__")):
        return False
    if found in _OF_PARTS:
        return any(_is_lazy(part) for part in value.__reduce__()[1])
    if found.__module__ in _CONTAINERS and found.__name__.endswith("iterator"):
        return found.__name__ == "callable_iterator"
    return not any(hasattr(found, name) for name in _HELD_OPEN)
