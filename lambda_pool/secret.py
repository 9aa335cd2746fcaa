"""Values that must never be shown: passwords and tokens travel wrapped until the driver needs them."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any, ClassVar, NoReturn, ParamSpec, Self, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Secret:
    """Holds one secret text. Prints as `***` everywhere; `reveal()` is the one way to the text; cannot be pickled."""

    __slots__ = ("__text",)

    def __init__(self, text: str) -> None:
        self.__text = text

    def reveal(self) -> str:
        """The text itself. Pass it straight to the driver; never keep it in a variable that outlives the call."""
        return self.__text

    def __repr__(self) -> str:
        return "***"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.__text == self.__text

    def __hash__(self) -> int:
        return hash((Secret, self.__text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled")

    def __getstate__(self) -> NoReturn:  # what serialisers other than pickle ask for
        self.__reduce__()


class SecretMapping(Mapping[str, Any]):
    """Arguments that may contain a password: prints only their names, and cannot be pickled."""

    __slots__ = ("__values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__values = dict(values)

    def __getitem__(self, name: str) -> Any:
        return self.__values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__values)

    def __len__(self) -> int:
        return len(self.__values)

    def __repr__(self) -> str:
        return f"{{{', '.join(f'{name!r}: ***' for name in self.__values)}}}"

    def __reduce__(self) -> NoReturn:
        raise TypeError("arguments that may hold a password cannot be pickled")

    def __getstate__(self) -> NoReturn:
        self.__reduce__()


class Forgetful:
    """Base of what fetches logins and addresses: a pickle holds how to fetch, and nothing that was fetched.

    One object serves any number of pools, so `copy.deepcopy`, which Django uses for its settings, returns the same one.
    """

    _fetched: ClassVar[frozenset[str]]
    """The attributes that `forget` sets."""

    def forget(self) -> None:
        """Forget everything cached (before a snapshot, after a fork)."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._fetched}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.forget()

    def __deepcopy__(self, memo: object) -> Self:
        return self


def private(function: Callable[P, R]) -> Callable[P, R]:
    """For a function that handles secrets in plain text: an error leaves it without the function's variables.

    Error reports show the variables of each frame, and some services collect them automatically. The frames stay, with
    file and line, but they are emptied.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        outer = sys.exception()  # from a caller's `except` block, so not ours to empty
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs
            _empty(error, outer)
            raise

    return call


def _empty(error: BaseException, outer: BaseException | None) -> None:
    """Empty the frames behind an error, and drop the errors that it hides: those may quote what they were given."""
    seen: set[int] = set()
    errors: list[BaseException | None] = [error]
    while errors:
        found = errors.pop()
        if found is None or found is outer or id(found) in seen:
            continue
        seen.add(id(found))
        if found.__suppress_context__ and found.__cause__ is None:
            found.__context__ = None
        errors += (found.__cause__, found.__context__)
        trace = found.__traceback__
        while trace is not None:
            with suppress(RuntimeError):  # a frame that still runs: this module's own, or a caller's
                trace.tb_frame.clear()
            trace = trace.tb_next
