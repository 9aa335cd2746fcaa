"""Checks single values: each gives a value, or one ConfigError that names it and says what it must be."""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

from ..errors import ConfigError
from ..secret import SecretMapping

_SHOWN = 100  # characters of a wrong value


def bad(name: str, value: object, wanted: str) -> ConfigError:
    """The error for a value that may be shown, cut where it is long."""
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - a number of 5,000 digits, or an object of the user's own
        shown = f"<{type(value).__name__}>"
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return ConfigError(f"{name}={shown} is not valid: it must be {wanted}")


def is_sendable(text: str) -> bool:
    """False for a NUL, where libpq would stop reading, and for bytes of the environment that are not UTF-8."""
    return "\0" not in text and (text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text))


def plain(text: str) -> str:
    """The text itself, also of a member of a `class Region(str, Enum)`, whose `str()` is its name."""
    return str.__str__(text)


def decoded(part: str, text: str) -> str:
    """A piece of a URL with its %-escapes decoded. Raises ConfigError, which does not show it."""
    if "%" in text:
        from urllib.parse import unquote  # takes 7 ms, which a MySQL function's cold start saves

        try:
            text = unquote(text, errors="strict")
        except UnicodeDecodeError:
            raise ConfigError(f"the URL's {part} is not valid: its %-escapes are not UTF-8") from None
    if not is_sendable(text):  # a driver's error would quote the whole text
        raise ConfigError(f"the URL's {part} is not valid: it holds a NUL character, or bytes that are not UTF-8")
    return text


def _number(name: str, value: object, kind: type[int | float], wanted: str) -> Any:
    """A number of this kind (a float may be whole), or the one that a text says. Raises ConfigError."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = kind(value)
    if isinstance(value, bool) or not isinstance(value, int | kind):
        raise bad(name, value, wanted)
    return value


def integer(least: int) -> Callable[[str, object], int]:
    """A whole number."""
    wanted = f"a whole number of at least {least}"

    def check(name: str, value: object) -> int:
        number: int = _number(name, value, int, wanted)
        if number < least:
            raise bad(name, number, wanted)
        return number

    return check


def number_of_seconds(*, zero: str = "") -> Callable[[str, object], float]:
    """Seconds above 0; `zero` says what 0 means where it is allowed."""
    wanted = f"a number of seconds above 0{f', or 0 {zero}' if zero else ''}"

    def check(name: str, value: object) -> float:
        number = _number(name, value, float, wanted)
        # "not (a < x)" refuses NaN too. The upper limit is there because poll() takes no more than 2 ** 31 ms.
        if not (0 < number <= 1e6) and not (zero and number == 0):
            raise bad(name, number, f"{wanted} (at most 1000000)" if number > 0 else wanted)
        return float(number)

    return check


def fraction(*, zero: str, one: str) -> Callable[[str, object], float]:
    """A number from 0 to 1; `zero` and `one` say what its ends mean."""
    wanted = f"a number from 0 ({zero}) to 1 ({one})"

    def check(name: str, value: object) -> float:
        number = _number(name, value, float, wanted)
        if not 0 <= number <= 1:  # or NaN
            raise bad(name, number, wanted)
        return float(number)

    return check


seconds: Callable[[str, object], float] = number_of_seconds()
"""Check a number of seconds above 0: `seconds(name, value)`. Raises ConfigError."""


def optional_seconds(name: str, value: object) -> float | None:
    """Seconds above 0, or nothing."""
    if value is None or (isinstance(value, str) and value in {"", "none", "None"}):
        return None
    return seconds(name, value)


def flag(name: str, value: object) -> bool:
    """True or false, in the words that people write into variables."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"true", "1", "yes", "on"}:
        return True
    if isinstance(value, str) and value.strip().lower() in {"false", "0", "no", "off"}:
        return False
    raise bad(name, value, "true or false")


def one_of(*choices: str) -> Callable[[str, object], str]:
    """One of these texts."""
    wanted = " or ".join(repr(choice) for choice in choices)

    def check(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise bad(name, value, wanted)
        return plain(value)

    return check


def mapping(name: str, value: object) -> Mapping[str, Any]:
    """A mapping of texts to anything, or a JSON object; its values may be secret and are not shown."""
    if isinstance(value, str):
        import json

        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            # The value may hold a password: it is not shown.
            raise ConfigError(f"{name} is not valid: it must be a JSON object of the driver's arguments") from None
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{name} is not valid: it must be a mapping of the driver's argument names to values")
    return SecretMapping(value)


def closest(name: str, known: Collection[str], otherwise: str | None = None, called: Callable[[str], str] = str) -> str:
    """The end of an error about an unknown name; it is `otherwise` if no known name is like it.

    `called` gives the name that a known one has where it is written.
    """
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {called(near[0])}?"
    return otherwise or f"known ones are {', '.join(map(called, sorted(known)))}"
