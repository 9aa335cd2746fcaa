"""The tables of docs/sessions.md, row by row, on the real servers: what the next borrower finds, and what is gone."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lambda_pool
from lambda_pool.testing import MySqlServer
from lambda_pool.testing.server import Server
from tests.contract.sessions.cases import CASES, Case

PAGE = Path(__file__).parents[3] / "docs" / "sessions.md"
COLUMNS = {"transaction, committed": 1, "transaction, rolled back": 2, "changed": 3, "session": 4}
WAYS = {
    "transaction, committed": ("commit",),
    "transaction, rolled back": ("rollback",),
    "changed": ("commit", "rollback"),
    "session": ("commit", "rollback"),
}


def table(engine: str) -> dict[str, list[str]]:
    """The rows of one engine's table, by their first cell."""
    section = PAGE.read_text().partition(f"\n## {engine}\n")[2].partition("\n## ")[0]
    rows = [re.split(r"(?<!\\) \| ", line[2:-2]) for line in section.splitlines() if re.match(r"\| .* \|$", line)]
    return {cells[0]: cells for cells in rows[1:]}


TABLES = {engine: table(engine) for engine in CASES}
SERVERS = {"postgres": "PostgreSQL", "mariadb": "MySQL and MariaDB", "genuine_mysql": "MySQL and MariaDB"}
CASES_OF = [(server, each) for server, engine in SERVERS.items() for each in CASES[engine]]
ALL = [(server, each, column, end) for server, each in CASES_OF for column in COLUMNS for end in WAYS[column]]


@pytest.mark.parametrize("engine", CASES)
def test_every_row_is_tested(engine: str) -> None:
    assert list(TABLES[engine]) == [each.name for each in CASES[engine]]


@pytest.fixture(scope="module")
def urls(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Where to, by the name of the server, with the few things that the cases need to be there."""
    made: dict[str, Server] = {}

    def url(name: str) -> str:
        if name not in made:
            made[name] = request.getfixturevalue(name)
            (_prepare_postgres if name == "postgres" else _prepare_mysql)(made[name])
        return made[name].url()

    yield url
    for name, server in made.items():
        if name == "postgres":
            server.execute("drop function sessions_function()")
            server.execute("drop sequence sessions_sequence")
            server.execute("drop table sessions_table")
        else:
            server.execute("drop function sessions_function")
            server.execute("drop procedure sessions_procedure")
            server.execute("drop table sessions_table, sessions_other")
        server.execute("drop role sessions_role")


def _prepare_postgres(postgres: Server) -> None:
    postgres.execute("create role sessions_role")
    postgres.execute("create table sessions_table (id int)")
    postgres.execute("create sequence sessions_sequence")
    postgres.execute(
        "create function sessions_function() returns text language plpgsql as "
        "$$ begin set statement_timeout = '77s'; return 'x'; end $$"
    )


def _prepare_mysql(mysql: Server) -> None:
    mysql.execute("create role sessions_role")
    if isinstance(mysql, MySqlServer):  # MariaDB does so for whoever creates it
        mysql.execute("grant sessions_role to root@'%'")
    mysql.execute("create table sessions_table (id int auto_increment primary key, note text) engine=innodb")
    mysql.execute("create table sessions_other (id int) engine=innodb")
    mysql.execute("create procedure sessions_procedure(out told int) set told = 5")
    mysql.execute(
        "create function sessions_function() returns int deterministic no sql begin set @left_behind = 5; return 1; end"
    )


class HalfWayError(Exception):
    """The borrower's own."""


def backend(conn: Any) -> int:
    return int(conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id())


def found(url: str, case: Case, reset: str, end: str) -> str:
    """What is left for the next borrower, in the words of the page."""
    with lambda_pool.Pool(url, observers=()).connection() as conn:
        fresh = case.look(conn)
        conn.rollback()  # a look may fail
    pool = lambda_pool.Pool(url, observers=(), reset=reset)
    try:
        with pool.connection() as conn:
            first = backend(conn)
            case.leave(conn)
            if end == "rollback":
                raise HalfWayError
    except HalfWayError:
        pass
    with pool.connection() as conn:
        if backend(conn) != first:
            assert case.look(conn) == fresh
            return "new connection"
        seen = case.look(conn)
        conn.rollback()  # a look may fail
    pool.close()
    return "gone" if seen == fresh else "stays"


@pytest.mark.sampled(78, "many cases")
@pytest.mark.parametrize(
    ("name", "case", "column", "end"),
    ALL,
    ids=[f"{name}-{case.name}-{column}-{end}" for name, case, column, end in ALL],
)
def test_the_table_is_true(urls: Callable[[str], str], name: str, case: Case, column: str, end: str) -> None:
    # "gone / new connection": where it depends on how the block ended.
    cell = TABLES[SERVERS[name]][case.name][COLUMNS[column]].replace("*", "").split(" / ")
    reset = column.partition(",")[0]
    assert found(urls(name), case, reset, end) == (cell[-1] if end == "rollback" else cell[0])


@pytest.mark.sampled(14, "many cases")
@pytest.mark.parametrize(
    ("name", "case"),
    CASES_OF,
    ids=[f"{name}-{case.name}" for name, case in CASES_OF],
)
def test_what_is_left_can_be_seen(urls: Callable[[str], str], name: str, case: Case) -> None:
    """Else a look that finds nothing would pass for a clean connection."""
    pool = lambda_pool.Pool(urls(name), observers=())
    with pool.connection() as conn:
        fresh = case.look(conn)
        conn.rollback()  # a look may fail
    pool.close()
    with pool.connection() as conn:
        case.leave(conn)
        if case.look(conn) == fresh:  # LISTEN begins with COMMIT
            conn.commit()
            assert case.look(conn) != fresh
    pool.close()
