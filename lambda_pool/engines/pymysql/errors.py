"""What PyMySQL's errors mean for the connection and for a second try."""

from typing import Any

from ...waiting import OverdueError
from ..base import AUTO_PAUSED, SILENT, Failure, from_elsewhere

# Error numbers: https://dev.mysql.com/doc/mysql-errors/8.4/en/ (server from 1000, client from 2000) and
# https://mariadb.com/kb/en/mariadb-error-code-reference/ (from 1900, and from 4000); 9501 is RDS Proxy's.
_NUMBERS = {
    Failure.TOO_MANY: (1040, 1203, 1226, 1637, 9501),
    # The account is locked, its password has expired, or it may not log in from here or to this database.
    Failure.REJECTED: (1044, 1045, 1130, 1698, 1820, 1862, 3118, 3878, 4151),
    Failure.SHUTDOWN: (1053, 1077, 1079),
    Failure.LOST: (1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2006, 2013, 2027, 2055, 3169, 4031),
    Failure.UNREACHABLE: (1047, 2002, 2003, 3032, 3168),
    Failure.UNTRUSTED: (2026, 3159),
    Failure.READ_ONLY: (1290, 1792, 1836),
    # 1412 and 1615: the schema changed under the transaction; 3101: refused by the group at COMMIT.
    Failure.CONFLICT: (1020, 1205, 1213, 1412, 1615, 3101),
}
_BY_NUMBER = {number: failure for failure, numbers in _NUMBERS.items() for number in numbers}
CR_SERVER_LOST = 2013
# PyMySQL reports these as "can't connect" (2003), like all the system's errors, whether a later attempt helps or not.
_TEXTS = (
    ("certificate", Failure.UNTRUSTED),
    # What Python says if the peer is gone in the middle of the TLS handshake.
    ("EOF occurred in violation of protocol", Failure.LOST),
    ("connection has been closed (EOF)", Failure.LOST),
    ("SSL", Failure.UNTRUSTED),
    ("Name or service not known", Failure.OTHER),
    ("No address associated", Failure.OTHER),
)


def classify(error: BaseException) -> Failure:
    """By the error's number, and by its text if the number says nothing. FOREIGN: not the driver's own."""
    if isinstance(error, OverdueError):
        return Failure.UNREACHABLE
    if not type(error).__module__.startswith("pymysql") or not error.args:
        # Its type does not tell: PyMySQL raises plain exceptions where it cannot read an answer.
        return Failure.FOREIGN if from_elsewhere(error) else Failure.OTHER
    number = error.args[0]
    if number == 0:  # InterfaceError(0, ""): used after the driver found it closed
        return Failure.LOST
    if not isinstance(number, int):
        return Failure.OTHER
    failure = _BY_NUMBER.get(number, Failure.OTHER)
    if (number == CR_SERVER_LOST and SILENT in str(error)) or (failure is Failure.OTHER and AUTO_PAUSED in str(error)):
        return Failure.RESUMING
    if failure is Failure.UNREACHABLE:
        for part, meaning in _TEXTS:
            if part in str(error):
                return meaning
    if failure is Failure.READ_ONLY and not is_read_only(error.args):
        return Failure.OTHER
    if number == 1226 and "max_user_connections" not in str(error):  # a limit per hour: no retry helps
        return Failure.OTHER
    return failure


def is_read_only(args: tuple[Any, ...]) -> bool:
    """True for 1836 and 1792, and for 1290 (a server option forbids it) if that option is the read-only one."""
    number = args[0] if args else 0
    return number in {1792, 1836} or (number == 1290 and "read-only" in str(args).replace("_", "-"))


def too_long(error: Exception, size: int, most: int | None) -> Exception | None:
    """An error that says that a statement was too long: the server's own error is often lost on the way.

    `most`: the server's max_allowed_packet, if that is known: it refuses a packet of just that size.
    """
    number = error.args[0] if error.args else None
    if number not in {1153, 2006, CR_SERVER_LOST} or not most or size < most:
        return None
    return type(error)(
        number,
        f"{error.args[1]} (the statement is {size} bytes long, and the server takes less than {most}: send "
        "it in parts, or raise max_allowed_packet)",
    )


def is_answer(number: object) -> bool:
    """True for a server's own error number. From 2000 on they are the client's: no answer, or no valid one.

    Those below 1000 are of its files, such as "no space left on device".
    """
    return isinstance(number, int) and number > 0 and not 2000 <= number < 3000


def is_refusal(error: BaseException) -> bool:
    """True for an answer to COMMIT that says no. One that tells of a lost connection leaves open what was saved."""
    number = error.args[0] if error.args else None
    return is_answer(number) and not ends_session(error)


def ends_session(error: BaseException) -> bool:
    """True for an error that tells of a lost connection, or of a server that closes it."""
    return classify(error) in {Failure.LOST, Failure.SHUTDOWN}
