"""What a URL's query and `connect_args` may pass to a driver: each argument is known, and passed on or refused.

An argument that overrules what the pool decides (the address, the login, encryption, time limits) is refused, and the
error names the pool's own way to say it. A driver's table holds every argument that the driver has; a test checks this.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ..config import OPTIONS, advice, closest, is_sendable
from ..errors import ConfigError
from ..record import Record

Check = Callable[[object], Any]
"""Turns a text or an object into what the driver takes. Raises ValueError, whose text says what it must be."""

OWN = ("host", "unix_socket", "sslmode", "sslrootcert", "sslcert", "sslkey", "pooled", "connect_timeout")
"""Our own words in a URL's query, suggested when a misspelt one resembles them."""

_LOGIN = "write it in the URL, as user:password@host:port/database, or as Pool(host=..., user=..., password=...)"
_QUERY = "write it in the URL's query, where it means the same for both engines"

REFUSED = {
    **dict.fromkeys(("host", "port", "user", "password", "passwd", "dbname", "database", "db"), _LOGIN),
    **dict.fromkeys(("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "pooled"), _QUERY),
    **{name: f"write it as an option, Pool(..., {name}=...), or set LAMBDA_POOL_{name.upper()}" for name in OPTIONS},
}
"""What no driver may be told in `connect_args`, and what to write instead."""


class Arguments(Record):
    """A driver's arguments. `passed`: valid in a URL's query and in `connect_args`; `objects`: in the latter alone.

    `refused`: never valid, with what to write instead. `unknown`: what else to say about one that is in none of these.
    """

    driver: str
    passed: Mapping[str, Check]
    objects: Mapping[str, Check]
    refused: Mapping[str, str]
    unknown: str = ""

    @property
    def names(self) -> set[str]:
        """All that are known."""
        return {*self.passed, *self.objects, *self.refused}

    def check(self, engine: str, parameters: Mapping[str, str], given: Mapping[str, Any]) -> dict[str, Any]:
        """What to pass to the driver, from a URL's parameters and from `connect_args`, which win. Raises ConfigError.

        No value is shown: each may be a secret that was written in the wrong place.
        """
        found = {name: self._check(engine, "the URL's query", name, value) for name, value in parameters.items()}
        return found | {name: self._check(engine, "connect_args", name, value) for name, value in given.items()}

    def _check(self, engine: str, where: str, name: str, value: object) -> Any:
        if name in self.refused:
            raise ConfigError(f"{where} holds {name!r}: {self.refused[name]}")
        in_url = where != "connect_args"
        if in_url and name in self.objects:
            raise ConfigError(
                f"{where} holds {name!r}, whose value is not a string: pass it in connect_args={{{name!r}: ...}}"
            )
        check = self.passed.get(name) or self.objects.get(name)
        if check is None:
            near = advice(engine, name) or closest(name, [*self.passed, *self.objects, *OWN], "take it out")
            raise ConfigError(f"{where} holds {name!r}, which {self.driver} does not know: {near}{self.unknown}")
        try:
            return check(value)
        except ValueError as error:
            raise ConfigError(f"{name} in {where} is not valid: it must be {error}") from None


def _word(value: object) -> str:
    """A text, or a number's digits; empty for everything else, and for numbers that are larger than any argument."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e9 else ""


def text(value: object) -> str:
    """A text that can be sent."""
    if not isinstance(value, str) or not is_sendable(value):
        raise ValueError("a string without NUL characters, in UTF-8")
    return value


def whole_number(least: int = 0) -> Check:
    """A whole number, or a text of one."""

    def check(value: object) -> int:
        digits = _word(value)
        if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and int(digits) >= least):
            raise ValueError(f"a whole number of at least {least}")
        return int(digits)

    return check


def seconds(value: object) -> float:
    """Seconds above 0, or a text of them."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        number = 0.0
    if not 0 < number < 1e6:
        raise ValueError("a number of seconds above 0")
    return number


def flag(value: object) -> bool:
    """True or false, or a word for one of them."""
    word = "1" if value is True else "0" if value is False else _word(value).lower()
    if word not in {"true", "1", "yes", "on", "false", "0", "no", "off"}:
        raise ValueError("true or false")
    return word in {"true", "1", "yes", "on"}


def one_of(*choices: str) -> Check:
    """One of these texts; a number counts as its digits."""

    def check(value: object) -> str:
        word = _word(value)
        if word not in choices:
            raise ValueError(" or ".join(map(repr, choices)))
        return word

    return check


def instance(kind: Callable[[Any], bool], wanted: str) -> Check:
    """An object that `kind` is true of."""

    def check(value: object) -> object:
        if not kind(value):
            raise ValueError(wanted)
        return value

    return check
