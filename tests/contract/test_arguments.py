"""What the URL's query and `connect_args` say to the drivers, and what they cannot mean."""

from typing import Any

import psycopg
import pymysql
import pytest
from psycopg.adapt import AdaptersMap

from lambda_pool import reclaim
from lambda_pool.api import core_of
from lambda_pool.engines.base import Failure
from lambda_pool.engines.psycopg.engine import PostgresEngine
from lambda_pool.engines.pymysql.engine import MysqlEngine
from lambda_pool.testing import FaultyProxy
from tests.contract.conftest import Database
from tests.support.core import entries


class TestMysql:
    def test_the_urls_texts_become_what_pymysql_takes(self, my: Database) -> None:
        query = "&read_timeout=7.5&client_flag=4&local_infile=no&use_unicode=1&max_allowed_packet=1048576"
        with my.pool(my.url + query).connection() as conn:
            assert (conn._read_timeout, conn.max_allowed_packet) == (7.5, 1048576)
            assert conn.client_flag & 4
            assert not conn._local_infile
            assert conn.use_unicode is True
            assert my.query(conn, "select 1") == [(1,)]

    def test_its_first_command_runs_again_after_the_session_was_put_back(self, my: Database) -> None:
        pool = my.pool(connect_args={"init_command": "set @begun = coalesce(@begun, 0) + 1"})
        with pool.connection() as conn:
            my.query(conn, "set session transaction isolation level serializable")
        with pool.connection() as conn:
            assert my.query(conn, "select @begun, @@tx_isolation") == [(1, "REPEATABLE-READ")]
        assert pool.stats().opened == 1

    def test_further_results_left_unread_are_read_at_return(self, my: Database) -> None:
        pool = my.pool(connect_args={"client_flag": pymysql.constants.CLIENT.MULTI_STATEMENTS})
        with pool.connection() as conn:
            cursor = conn.cursor()
            cursor.execute(f"insert into {my.table} values (1); select 2; select 3")
        assert my.rows() == [1]
        with pool.connection() as conn:
            assert my.query(conn, "select 4") == [(4,)]
        assert pool.stats().opened == 1


class TestPostgres:
    def test_psycopgs_own(self, pg: Database) -> None:
        """Each of `Connection.connect()`'s arguments that never reach libpq."""
        context = AdaptersMap(psycopg.adapters)
        own: dict[str, Any] = {
            "context": _Context(context),
            "row_factory": psycopg.rows.dict_row,
            "cursor_factory": psycopg.ClientCursor,
            "prepare_threshold": None,
        }
        with pg.pool(connect_args=own).connection() as conn:
            context.register_dumper(int, _Loud)
            assert conn.prepare_threshold is None
            assert isinstance(conn.cursor(), psycopg.ClientCursor)
            assert conn.execute("select 1 as a").fetchone() == {"a": 1}

    def test_a_query_that_was_sent_below_the_driver_is_read_to_its_end(self, pg: Database) -> None:
        pool = pg.pool()
        with pool.connection() as conn:
            pg.insert(conn, 1)
            conn.pgconn.send_query(b"select generate_series(1, 100000)")
        assert pg.rows() == [1]
        with pool.connection() as conn:
            assert pg.query(conn, "select 1") == [(1,)]
        assert pool.stats().opened == 1

    @pytest.mark.parametrize("statement", [b"copy %s from stdin", b"select 1/0"])
    def test_one_that_has_no_good_end_is_an_error_and_saves_nothing(self, pg: Database, statement: bytes) -> None:
        pool = pg.pool()
        with pytest.raises(psycopg.Error), pool.connection() as conn:
            pg.insert(conn, 1)
            conn.pgconn.send_query(statement.replace(b"%s", pg.table.encode()))
        assert pg.rows() == []
        with pool.connection() as conn:
            assert pg.query(conn, "select 1") == [(1,)]


class _Loud(psycopg.adapt.Dumper):
    def dump(self, obj: Any) -> bytes:
        raise AssertionError("the connection has adapters of its own")


class _Context:
    """What psycopg takes for a context: something with adapters."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters


class TestErrors:
    def test_a_statements_own_error_stays_what_it_is_under_an_alarm(self, database: Database) -> None:
        pool = database.pool(cancel_before_deadline=0.5)
        with pytest.raises((psycopg.errors.UndefinedTable, pymysql.ProgrammingError)), pool.connection() as conn:
            database.query(conn, "select * from nothing_of_that_name")

    def test_a_cancel_that_gets_nowhere_says_so(self, database: Database) -> None:
        """Its caller then cuts the connection."""
        with FaultyProxy("127.0.0.1", database.server.port) as proxy:
            pool = database.pool(database.url.replace(f":{database.server.port}/", f":{proxy.port}/"))
            with pool.connection():
                proxy.refuse()
                assert not reclaim.cancel(core_of(pool), entries(pool)[0], entries(pool)[0].link, 0.5)
            pool.close()

    def test_every_class_of_connection_exception_is_a_loss(self) -> None:
        for error in (psycopg.errors.ConnectionException, psycopg.errors.ProtocolViolation):
            assert PostgresEngine().classify(error("gone")) is Failure.LOST
        assert MysqlEngine().classify(pymysql.InterfaceError(0, "")) is Failure.LOST
        assert MysqlEngine().classify(pymysql.OperationalError("no number")) is Failure.OTHER
