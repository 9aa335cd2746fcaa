"""A deliberate deadlock in MySQL."""

import threading
import time
from contextlib import suppress
from typing import Any

import pymysql
import pytest

from tests.contract.conftest import Database


class Deadlock:
    """Two rows, locked in opposite order: the server undoes the whole transaction of the smaller one."""

    def __init__(self, my: Database) -> None:
        self._my, self._table = my, f"{my.table}_l"
        my.execute(f"drop table if exists {self._table}")
        my.execute(f"create table {self._table} (id int primary key, n int default 0) engine=innodb")
        my.execute(f"insert into {self._table} (id) values (1), (2)")
        self._pool = my.pool(name="other")

    def swallow(self, conn: Any) -> None:
        """Cause the deadlock, and handle its error."""
        with pytest.raises(pymysql.OperationalError, match="1213"):
            self.strike(conn)

    def strike(self, conn: Any) -> None:
        """Cause it in a single statement, so that no other statement of the transaction came right before it."""
        ready = threading.Event()
        my, table = self._my, self._table

        def other() -> None:
            with suppress(pymysql.MySQLError), self._pool.connection() as theirs:
                heavy = ",".join(f"({each})" for each in range(1000, 1100))
                my.query(theirs, f"insert into {table} (id) values {heavy}")
                my.query(theirs, f"update {table} set n = 1 where id = 2")
                ready.set()
                time.sleep(0.5)
                my.query(theirs, f"update {table} set n = 1 where id = 1")
                theirs.rollback()

        thread = threading.Thread(target=other)
        thread.start()
        assert ready.wait(10)
        try:
            my.query(conn, f"update {table} set n = 2 where id in (1, 2) order by id")
        finally:
            thread.join()
