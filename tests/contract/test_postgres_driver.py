"""A psycopg that no longer has, or no longer calls, what is overridden: one clear error, and nothing replayed."""

import subprocess
import sys
from typing import Any

import psycopg
import pytest

from tests.contract.conftest import Database

PROGRAM = """
import sys
import psycopg
from psycopg import pq

{break_it}
import lambda_pool

calls = 0

def work(conn):
    global calls
    calls += 1
    conn.execute("insert into {table} values (%s)", [calls])
    conn.cursor().execute("commit")
    conn.execute("insert into {table} values (%s)", [calls + 10])
    if calls < 3:
        raise psycopg.errors.DeadlockDetected("deadlock")

try:
    lambda_pool.Pool(sys.argv[1], observers=()).run(work)
except lambda_pool.ConfigError as error:
    print("ConfigError", psycopg.__version__ in str(error), "calls", calls)
except psycopg.Error as error:
    print(type(error).__name__, "calls", calls)
"""

GONE = "ConfigError True calls 0"
RENAMED = """
psycopg.Connection._wait = psycopg.Connection.wait
{also}
import psycopg.cursor, textwrap, inspect
for name in ("execute", "executemany", "stream", "copy"):
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(vars(psycopg.Cursor)[name])))
    exec(source.replace("_conn.wait(", "_conn._wait("), vars(psycopg.cursor))
    setattr(psycopg.Cursor, name, vars(psycopg.cursor).pop(name))
"""
BREAKAGES = {
    "wait is gone": ("del psycopg.Connection.wait", GONE),
    "wait has another signature": (
        "psycopg.Connection.wait = lambda self, gen, interval=0.1, *, deadline=None: None",
        GONE,
    ),
    "wait is called otherwise": (RENAMED.format(also=""), "ConfigError True calls 1"),
    "wait is renamed": (RENAMED.format(also="del psycopg.Connection.wait"), GONE),
    "transaction is gone": ("del psycopg.Connection.transaction", GONE),
    "a cursor's execute is gone": ("del psycopg.Cursor.execute", GONE),
    "results are told otherwise": ("del psycopg.Cursor.set_result", GONE),
    "the connection makes cursors without cursor()": (
        "psycopg.Connection.execute = lambda self, query, params=None: psycopg.Cursor(self).execute(query, params)",
        "DeadlockDetected calls 1",
    ),
    "as it is": ("", "DeadlockDetected calls 1"),
}


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("name", BREAKAGES)
def test_a_driver_that_does_not_fit(pg: Database, name: str) -> None:
    break_it, said = BREAKAGES[name]
    program = PROGRAM.format(break_it=break_it, table=pg.table)
    command = [sys.executable, "-c", program, pg.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == said, done.stderr
    assert pg.rows() in ([], [1])


def test_a_cursor_of_the_borrowers_own_that_asks_nothing(pg: Database) -> None:
    class Careful(psycopg.Cursor[Any]):
        def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
            if params_seq:
                super().executemany(query, params_seq, returning=returning)

    def work(conn: Any) -> None:
        with conn.cursor() as cursor:
            for rows in ([], [(1,), (2,)], []):
                cursor.executemany(f"insert into {pg.table} values (%s)", rows)

    pool = pg.pool(connect_args={"cursor_factory": Careful})
    pool.run(work)
    assert pg.rows() == [1, 2]
