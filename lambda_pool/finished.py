"""Whether a function that was given a connection has run, or returned a body that has yet to run without it."""

from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import TypeVar

from .errors import ConfigError

R = TypeVar("R")

_NOT_YET_RUN = frozenset({CoroutineType, GeneratorType, AsyncGeneratorType})


def finished(kind: str, name: str, result: R) -> R:
    """The result of a function of this kind and name. Raises ConfigError if its body is yet to run."""
    if type(result) in _NOT_YET_RUN:
        if isinstance(result, CoroutineType | GeneratorType):
            result.close()  # or Python warns that nobody awaited it
        raise ConfigError(
            f"the {kind} {name} returned a {type(result).__name__}, whose body would run after its connection was "
            "given back: return a list, or what asyncio.run(…) returns"
        )
    return result
