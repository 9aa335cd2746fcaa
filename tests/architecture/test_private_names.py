"""Drivers by their public API: whatever has a leading underscore under engines/psycopg is our own."""

import inspect
import re
from pathlib import Path

import psycopg
import psycopg.conninfo
import psycopg.generators
import psycopg.waiting
from psycopg import pq

import lambda_pool

ROOM = Path(lambda_pool.__file__).parent / "engines" / "psycopg"
OWNERS = (
    *(psycopg.Connection, psycopg.Cursor, psycopg.ServerCursor, psycopg.ClientCursor, psycopg.RawCursor),
    *(psycopg.Transaction, psycopg.Pipeline, psycopg.Copy, psycopg.adapt.AdaptersMap, pq.PGconn, pq.PGresult),
    *(psycopg, psycopg.errors, psycopg.waiting, psycopg.generators, psycopg.conninfo, pq),
)
PRIVATE = re.compile(r"\.(_[a-z]\w*)|[\"'](_[a-z]\w*)[\"']|\bimport (_\w+)|from psycopg\.(_\w+)")


def theirs() -> set[str]:
    """Every private name of the driver's, also those that only its constructors set."""
    found = {name for owner in OWNERS for name in dir(owner)}
    for owner in OWNERS:
        if inspect.isclass(owner):
            for base in owner.__mro__[:-1]:
                try:
                    source = inspect.getsource(base)
                except (OSError, TypeError):  # written in C
                    continue
                found.update(re.findall(r"\bself\.(_[a-z]\w*)", source))
    return {name for name in found if re.match("_[A-Za-z]", name)}


def ours() -> dict[str, str]:
    """Every private name that the room uses, and where."""
    return {
        next(filter(None, match.groups())): f"{path.name}: {match.group()}"
        for path in sorted(ROOM.glob("*.py"))
        for match in PRIVATE.finditer(path.read_text())
    }


def test_the_look_sees_the_drivers_private_names() -> None:
    assert {
        "_start_query",
        "_pool",
        "_adapters",
        "_autocommit",
        "_tpc",
        "_num_transactions",
        "_WaitTimeout",
    } <= theirs()
    assert {"_commit", "_rollback"} & ours().keys()


def test_none_of_them_is_the_drivers() -> None:
    known = theirs()
    assert {where for name, where in ours().items() if name in known} == set()
