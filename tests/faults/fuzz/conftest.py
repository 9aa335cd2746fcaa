"""Both engines' real dialogues, recorded once, and a front that plays them back, mutated or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import lambda_pool
from lambda_pool.testing import MariaDbServer
from tests.faults.fuzz.hostile import Answer, Front, Script
from tests.faults.fuzz.nasties import PG_WELCOME


@dataclass(frozen=True)
class Dialogue:
    """What a real server answers, one answer for each time that the client speaks."""

    login: tuple[bytes, ...]
    ping: tuple[bytes, ...]
    statement: tuple[bytes, ...]
    """With the transaction that it begins."""
    commit: tuple[bytes, ...]
    rollback: tuple[bytes, ...]
    reset: tuple[bytes, ...]


class Target:
    """One engine: its real server, the front before it, and the dialogue between a pool and the server."""

    def __init__(self, server: Any, front: Front) -> None:
        self.server = server
        self.front = front
        self.engine = "mysql" if server.scheme == "mysql" else "postgresql"
        self.mysql = self.engine == "mysql"
        self.dialogue = self._record()

    @property
    def secret(self) -> str:
        """The password, which no text may show."""
        return str(self.server.password)

    def pool(self, *, sslmode: str = "disable", **options: Any) -> lambda_pool.Pool:
        """A pool of connections to the front."""
        url = self.server.url(host="127.0.0.1", port=self.front.port, tls=False, sslmode=sslmode)
        return lambda_pool.Pool(url, **{"observers": ()} | options)

    def script(self, *answers: Answer, **rest: Any) -> Script:
        """A script that begins as this engine's servers do."""
        return Script(answers, speaks_first=self.mysql, **rest)

    def insert(self, conn: Any) -> None:
        conn.cursor().execute("insert into fuzz values (1)")

    @property
    def begin(self) -> tuple[bytes, ...]:
        """What answers the beginning of `run`, which MySQL marks by a savepoint in the same write."""
        return (2 * self.dialogue.statement[0],) if self.mysql else ()

    def _apart(self, answers: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """MySQL's answers one by one, where several were asked for in one write."""
        if not self.mysql:
            return answers
        packets, rest = [], b"".join(answers)
        while rest:
            length = 4 + int.from_bytes(rest[:3], "little")
            packets.append(rest[:length])
            rest = rest[length:]
        return tuple(packets)

    def _record(self) -> Dialogue:
        self.server.execute("create table if not exists fuzz (id int)")
        spoken = self.front.spoken
        pool = self.pool(reset="session", ping_after=0.0)
        pool.warm(strict=True)
        login = spoken()
        with pool.connection() as conn:
            ping = spoken()
            self.insert(conn)
            statement = spoken()
        commit, *reset = self._apart(spoken())
        pool.close()
        if not self.mysql:  # there COMMIT and the reset are one message
            reset = [commit]
            pool = self.pool()
            with pool.connection() as conn:
                self.insert(conn)
                spoken()
            commit = spoken()[0]
        else:
            pool = self.pool()
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            self.insert(conn)
            spoken()
            1 / 0  # noqa: B018
        rollback = self._apart(spoken())[:1]
        pool.close()
        if not self.mysql:
            # A SCRAM login cannot be played back, but libpq accepts a server that asks for no password.
            login = (login[-1][login[-1].index(PG_WELCOME[:9]) :],)
        return Dialogue(login, ping, statement, (commit,), rollback, tuple(reset))


def _target(server: Any) -> Iterator[Target]:
    with Front(server.port) as front:
        yield Target(server, front)
    server.execute("drop table if exists fuzz")


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    yield from _target(request.getfixturevalue("postgres" if request.param == "postgresql" else "mariadb"))


@pytest.fixture
def my_target(mariadb: MariaDbServer) -> Iterator[Target]:
    yield from _target(mariadb)
