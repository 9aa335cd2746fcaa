"""The two names that PyMySQL keeps to itself and that are used all the same. Nothing else of the package uses any.

| name | what it buys |
|---|---|
| `Connection._result` | Whether rows of a streamed result are still on the wire: a COMMIT would be answered by them |
| `MySQLResult._finish_unbuffered_query` | The rest of such a stream is read, so that COMMIT can save the block's work |

Guard: `check` looks for both when the driver is loaded, and `result_of` when a statement was first answered.
"""

from typing import Any

from pymysql.connections import Connection, MySQLResult

from .wire import unknown_driver

NAMES: dict[str, Any] = {"_result": Connection, "_finish_unbuffered_query": MySQLResult}
"""Each name, and the class on whose instances it is."""


def check() -> None:
    """Raise ConfigError if the driver has no longer what is used of it."""
    for name, owner in NAMES.items():
        if not hasattr(owner if owner is MySQLResult else Connection(defer_connect=True, ssl_disabled=True), name):
            raise unknown_driver(f"{owner.__name__} has no {name}")


def result_of(conn: Any) -> Any:
    """The MySQLResult of the last statement; None where there is none, or another command came after it."""
    result = conn._result
    if result is not None and not isinstance(result, MySQLResult):
        raise unknown_driver("Connection._result is no MySQLResult")
    return result


def read_to_the_end(result: Any) -> None:
    """Read what is left of a streamed result."""
    result._finish_unbuffered_query()
