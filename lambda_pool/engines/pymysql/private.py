"""The three private names of PyMySQL that are used all the same. Nothing else in the package uses any.

| name | what it buys |
|---|---|
| `Connection._result` | Whether rows of a streamed result are still on the wire: they would answer a COMMIT |
| `MySQLResult._finish_unbuffered_query` | The rest of such a stream is read, so that COMMIT can save the block's work |
| `Connection._secure` | Over a Unix socket that the pool opened, MySQL is sent the password as it wants it there |

Guard: `check` looks for all of them when the driver is loaded, and `result_of` at each use.
"""

from typing import Any

from pymysql.connections import Connection, MySQLResult

from .wire import unknown_driver

NAMES: dict[str, Any] = {"_result": Connection, "_finish_unbuffered_query": MySQLResult, "_secure": Connection}
"""Each name, and the class whose instances have it."""


def check() -> None:
    """Raise ConfigError if the driver no longer has one of these names."""
    for name, owner in NAMES.items():
        if not hasattr(owner if owner is MySQLResult else Connection(defer_connect=True, ssl_disabled=True), name):
            raise unknown_driver(f"{owner.__name__} has no {name}")


def result_of(conn: Any) -> Any:
    """The MySQLResult of the last statement; None if there is none, or if another command came after it."""
    result = conn._result
    if result is not None and not isinstance(result, MySQLResult):
        raise unknown_driver("Connection._result is not a MySQLResult")
    return result


def note_unix_socket(conn: Any) -> None:
    """Before the login, note what PyMySQL notes for a Unix socket that it opens itself.

    There, caching_sha2_password wants the password in clear text, and takes anything else for a wrong one.
    """
    conn._secure = True


def read_to_the_end(result: Any) -> None:
    """Read what is left of a streamed result."""
    result._finish_unbuffered_query()
