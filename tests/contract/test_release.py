"""A connection that is closed leaves nothing behind, also without the garbage collector."""

import gc
import weakref
from pathlib import Path

import psycopg
import pymysql
import pytest

import lambda_pool.lifecycle
from tests.contract.conftest import Database

DRIVER_ERRORS = (psycopg.Error, pymysql.MySQLError)


@pytest.fixture(autouse=True)
def for_this_test_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pool asks for holds for the whole process, and would else hold for every later test."""
    monkeypatch.setattr(lambda_pool.lifecycle.process, "cancel_before", 0.0)


def sockets() -> int:
    return sum(str(fd.readlink()).startswith("socket:") for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink())


@pytest.mark.sampled(6, "counts in a process of its own")
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("how", ["lost", "lost before COMMIT", "closed", "killed while idle"])
def test_memory_and_descriptors_are_released_at_once(database: Database, how: str, watched: bool) -> None:
    pool = database.pool(cancel_before_deadline=1.0 if watched else 0.0)
    gc.collect()
    before = sockets()
    conns: list[weakref.ref[object]] = []
    gc.disable()
    try:
        for number in range(5):
            try:
                with pool.connection() as conn:
                    backend = database.backend(conn)
                    conns.append(weakref.ref(conn))
                    database.insert(conn, number)
                    if "lost" in how:
                        database.kill(backend)
                    if how == "lost":
                        database.query(conn, "select 1")
            except DRIVER_ERRORS:
                assert "lost" in how
            else:
                assert "lost" not in how
            if how == "killed while idle":
                database.kill(backend)
            elif how == "closed":
                pool.close()
        pool.close()
        del conn
        assert sockets() == before
        assert [conn() for conn in conns] == [None] * 5
    finally:
        gc.enable()
