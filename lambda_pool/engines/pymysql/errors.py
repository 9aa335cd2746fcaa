"""What PyMySQL's errors mean for the connection and for a second try."""

from typing import Any

from ..base import Failure

# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/ (server from 1000, client from 2000); 9501 is RDS
# Proxy's, 1927 MariaDB's "connection was killed".
_BY_NUMBER = {
    1040: Failure.TOO_MANY,
    1203: Failure.TOO_MANY,
    1226: Failure.TOO_MANY,
    9501: Failure.TOO_MANY,
    1045: Failure.REJECTED,
    1698: Failure.REJECTED,
    1053: Failure.SHUTDOWN,
    1927: Failure.LOST,
    2006: Failure.LOST,
    2013: Failure.LOST,
    2027: Failure.LOST,
    2055: Failure.LOST,
    4031: Failure.LOST,
    2002: Failure.UNREACHABLE,
    2003: Failure.UNREACHABLE,
    2026: Failure.UNTRUSTED,
    1290: Failure.READ_ONLY,
    1836: Failure.READ_ONLY,
    1205: Failure.CONFLICT,
    1213: Failure.CONFLICT,
}
# What no time heals, though PyMySQL reports it as "can't connect" (2003) like all that the operating system says.
_FINAL_TEXTS = (
    ("certificate", Failure.UNTRUSTED),
    ("SSL", Failure.UNTRUSTED),
    ("Name or service not known", Failure.OTHER),
    ("No address associated", Failure.OTHER),
)


def classify(error: BaseException) -> Failure:
    """By the error's number, and by its text where the number says nothing."""
    if isinstance(error, TimeoutError):
        return Failure.UNREACHABLE
    if not type(error).__module__.startswith("pymysql") or not error.args:
        return Failure.OTHER
    number = error.args[0]
    if number == 0:  # InterfaceError(0, ""): used after the driver found it closed
        return Failure.LOST
    if not isinstance(number, int):
        return Failure.OTHER
    failure = _BY_NUMBER.get(number, Failure.OTHER)
    if failure is Failure.UNREACHABLE:
        for part, meaning in _FINAL_TEXTS:
            if part in str(error):
                return meaning
    if failure is Failure.READ_ONLY and not is_read_only(error.args):
        return Failure.OTHER
    return failure


def is_read_only(args: tuple[Any, ...]) -> bool:
    """True for 1836, and for 1290 (a server option forbids it) if that option is the read-only one."""
    number = args[0] if args else 0
    return number == 1836 or (number == 1290 and "read-only" in str(args))


def is_answer(number: object) -> bool:
    """True for a server's own error number; from 2000 on come those of clients: not, or not well, answered."""
    return isinstance(number, int) and number >= 1000 and not 2000 <= number < 3000
