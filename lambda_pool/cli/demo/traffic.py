"""What a server saw of one user, read from its own log: the clients are not asked."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The statements that the demo's handlers send themselves, and those that delimit their transactions.
_OWN = re.compile(r"(insert into orders|update stock|begin|start transaction|commit|rollback)\b", re.IGNORECASE)

_POSTGRES_LINE = re.compile(
    r" (?P<user>\w+)@\w+ LOG:  (?P<kind>statement|execute [^:]+|connection authorized): ?(?P<text>.*)"
)
# 261120 19:08:43<tab>     4 Connect<tab>user@127.0.0.1 on database using SSL/TLS
_MARIADB_LINE = re.compile(r"^(?:\d{6} [ \d]\d:\d\d:\d\d)?\t+ *(?P<thread>\d+) (?P<command>[A-Z][\w ]*)\t?(?P<text>.*)")
_MARIADB_START = "started with:"


@dataclass(frozen=True)
class Traffic:
    """Connections opened, and statements beyond the handler's own and its BEGIN, COMMIT and ROLLBACK."""

    connections: int = 0
    extra: int = 0

    def __sub__(self, earlier: Traffic) -> Traffic:
        return Traffic(self.connections - earlier.connections, self.extra - earlier.extra)

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.connections + other.connections, self.extra + other.extra)


def of_postgres(log: str, user: str) -> Traffic:
    """Read a log written with log_statement = all, log_connections = on and the line prefix `… user@database`.

    An empty statement, which is the cheapest ping, is a statement too.
    """
    connections = extra = 0
    for line in log.splitlines():
        found = _POSTGRES_LINE.search(line)
        if found is None or found["user"] != user:
            continue
        if found["kind"] == "connection authorized":
            connections += 1
        elif not _OWN.match(found["text"]):
            extra += 1
    return Traffic(connections, extra)


def of_mariadb(log: str, user: str) -> Traffic:
    """Read a general log. It lacks COM_PING: the server's status variable Com_admin_commands counts those."""
    connections = extra = 0
    threads: set[str] = set()
    for line in log.splitlines():
        if line.endswith(_MARIADB_START):
            threads.clear()  # a restarted server numbers its threads from the beginning
            continue
        found = _MARIADB_LINE.match(line)
        if found is None:
            continue
        if found["command"] == "Connect":
            threads.discard(found["thread"])
            if found["text"].startswith(f"{user}@"):
                threads.add(found["thread"])
                connections += 1
        elif found["thread"] in threads and found["command"] != "Quit" and not _OWN.match(found["text"]):
            extra += 1
    return Traffic(connections, extra)
