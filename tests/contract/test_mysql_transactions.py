"""MySQL: work that the server undid is never reported as saved, and work that may be saved is never repeated."""

import gc
import logging
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from itertools import count
from typing import Any
from weakref import ref

import pymysql
import pytest
from pymysql.constants import CLIENT
from pymysql.cursors import SSCursor

import lambda_pool
from lambda_pool.engines.bounded_socket import shut_down
from lambda_pool.testing import MariaDbServer
from tests.contract.conftest import Database
from tests.support.written import written

SNAPSHOTS = {"init_command": "set innodb_snapshot_isolation = on"}
"""The default of MariaDB 11.6 and later: 1020 then undoes the whole transaction."""


@pytest.fixture
def other(my: Database) -> Callable[[str], object]:
    """Another client, which commits at once."""
    pool = my.pool(name="other", autocommit=True)

    def execute(sql: str) -> object:
        with pool.connection() as conn:
            return my.query(conn, sql)

    return execute


# --- with conn: -------------------------------------------------------------------------------------------------------


class TestWithConn:
    def test_it_commits_and_the_block_goes_on(self, my: Database) -> None:
        pool = my.pool()
        with pytest.raises(ZeroDivisionError), pool.connection() as conn:
            with conn as same:
                assert same is conn
                my.insert(conn, 1)
            assert my.rows() == [1]
            my.insert(conn, 2)
            1 / 0  # noqa: B018
        assert my.rows() == [1]
        assert pool.stats().opened == 1

    def test_it_rolls_back_on_error_and_the_block_goes_on(self, my: Database) -> None:
        pool = my.pool()
        with pool.connection() as conn:
            with pytest.raises(ZeroDivisionError), conn:
                my.insert(conn, 1)
                1 / 0  # noqa: B018
            my.insert(conn, 2)
        assert my.rows() == [2]
        assert pool.stats().opened == 1

    def test_inside_run_it_leaves_the_end_to_run(self, my: Database) -> None:
        calls: list[int] = []

        def work(conn: Any) -> None:
            calls.append(1)
            with conn:
                my.insert(conn, len(calls))
                if len(calls) == 1:
                    raise pymysql.OperationalError(1213, "a real one does the same")
            assert my.rows() == []

        my.pool().run(work)
        assert my.rows() == [2]

    def test_an_error_in_it_that_the_work_swallows_is_no_success(self, my: Database) -> None:
        def work(conn: Any) -> None:
            with pytest.raises(ZeroDivisionError), conn:
                my.insert(conn, 1)
                1 / 0  # noqa: B018

        with pytest.raises(lambda_pool.LambdaPoolError, match="none of the transaction is saved"):
            my.pool().run(work)
        assert my.rows() == []

    @pytest.mark.mariadb
    def test_it_does_not_commit_half_of_what_the_server_undid(
        self, my: Database, other: Callable[[str], object]
    ) -> None:
        lost = Lost(my, other)
        with (
            my.pool(connect_args=SNAPSHOTS).connection() as conn,
            pytest.raises(pymysql.OperationalError, match="1020"),
            conn,
        ):
            my.insert(conn, 10)
            lost.swallow(conn)
            my.insert(conn, 11)
        assert my.rows() == []

    def test_a_connection_that_it_closed_itself(self, my: Database) -> None:
        with my.pool().connection() as conn, conn:
            my.insert(conn, 1)
            conn.commit()
            conn.close()
        assert my.rows() == [1]


# --- what the server undid --------------------------------------------------------------------------------------------


class Lost:
    """If a row changed since it was read, the server undoes the whole transaction."""

    def __init__(self, my: Database, other: Callable[[str], object]) -> None:
        self._my, self._other, self._table = my, other, f"{my.table}_read"
        other(f"create or replace table {self._table} (v int) engine=innodb")
        other(f"insert into {self._table} values (0)")

    def strike(self, conn: Any) -> None:
        self._my.query(conn, f"select v from {self._table}")
        self._other(f"update {self._table} set v = v + 1")
        self._my.query(conn, f"update {self._table} set v = v + 10")

    def swallow(self, conn: Any) -> None:
        with pytest.raises(pymysql.OperationalError, match="1020"):
            self.strike(conn)


@pytest.mark.mariadb
@pytest.mark.parametrize("more", [False, True], ids=["at the end", "with more after it"])
@pytest.mark.parametrize("autocommit", [False, True])
def test_a_block_that_swallowed_it_is_no_success(
    my: Database, other: Callable[[str], object], more: bool, autocommit: bool
) -> None:
    lost = Lost(my, other)
    pool = my.pool(connect_args=SNAPSHOTS, autocommit=autocommit, unsaved="raise")
    with (
        pytest.raises(lambda_pool.LambdaPoolError, match="none of the transaction is saved"),
        pool.connection() as c,
    ):
        if autocommit:
            c.begin()
        my.insert(c, 10)
        lost.swallow(c)
        if more:
            with pytest.raises(pymysql.InternalError, match="the server undid") if autocommit else nullcontext():
                my.insert(c, 11)
    assert my.rows() == []
    assert pool.stats().idle == 1


@pytest.mark.mariadb
@pytest.mark.parametrize("swallowed", [False, True])
def test_run_begins_anew(my: Database, other: Callable[[str], object], swallowed: bool) -> None:
    lost = Lost(my, other)
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(1)
        my.insert(conn, 10)
        if len(calls) == 1:
            (lost.swallow if swallowed else lost.strike)(conn)

    my.pool(connect_args=SNAPSHOTS).run(work)
    assert calls == [1, 1]
    assert my.rows() == [10]


@pytest.mark.mariadb
def test_a_rollback_of_the_blocks_own_makes_it_good_again(my: Database, other: Callable[[str], object]) -> None:
    """Code that tries again by hand does this."""
    lost = Lost(my, other)
    with my.pool(connect_args=SNAPSHOTS).connection() as conn:
        my.insert(conn, 10)
        lost.swallow(conn)
        conn.rollback()
        my.insert(conn, 11)
    assert my.rows() == [11]


@pytest.mark.mariadb
def test_a_commit_of_the_blocks_own_saves_no_half_of_it(my: Database, other: Callable[[str], object]) -> None:
    """What came before it is undone. After an explicit new beginning, the transaction is not half."""
    lost = Lost(my, other)
    with my.pool(connect_args=SNAPSHOTS).connection() as conn:
        my.insert(conn, 10)
        lost.swallow(conn)
        my.insert(conn, 11)
        for end in (conn.commit, conn.begin, partial(my.query, conn, "commit"), partial(my.query, conn, "lock tables")):
            with pytest.raises(pymysql.InternalError, match=r"the server undid this transaction .*1020"):
                end()
        conn.rollback()
        my.insert(conn, 12)
        lost.swallow(conn)
        conn.begin()
        my.insert(conn, 13)
        conn.commit()
    assert my.rows() == [13]


def test_an_error_that_undid_its_statement_alone_costs_nothing(my: Database, caplog: pytest.LogCaptureFixture) -> None:
    with my.pool().connection() as conn:
        my.insert(conn, 1)
        with pytest.raises(pymysql.IntegrityError):
            my.insert(conn, 1)
        my.insert(conn, 2)
    assert my.rows() == [1, 2]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_lock_that_did_not_come_in_time() -> None:
    """By default only the statement is undone; this server undoes the whole transaction."""
    with MariaDbServer(extra_config=["--innodb-rollback-on-timeout=ON", "--innodb-lock-wait-timeout=1"]) as server:
        server.execute("create table locked (id int primary key) engine=innodb")
        server.execute("insert into locked values (1)")
        pool = lambda_pool.Pool(server.url(), observers=(), max_size=2)
        calls: list[int] = []

        def work(conn: Any) -> None:
            calls.append(1)
            cursor = conn.cursor()
            cursor.execute("insert into locked values (2)")
            if len(calls) == 1:
                with pytest.raises(pymysql.OperationalError, match="1205"):
                    cursor.execute("delete from locked where id = 1")

        with pool.connection() as holder:
            holder.cursor().execute("select * from locked where id = 1 for update")
            pool.run(work)
        assert calls == [1, 1]
        assert server.execute("select id from locked") == [(1,), (2,)]
        pool.close()


@pytest.mark.sampled(1 / 2, "5 s a case")
@pytest.mark.parametrize("streams", [False, True])
def test_a_thread_that_is_still_at_work_when_the_block_ends(my: Database, streams: bool) -> None:
    pool = my.pool()

    ended: list[Exception] = []

    def late(conn: Any) -> None:
        try:
            if streams:
                cursor = conn.cursor(SSCursor)
                cursor.execute(f"select repeat('x', 20000), sleep({my.table}.id) from {my.table}")
                cursor.fetchall()
            else:
                my.query(conn, "select sleep(10)")
        except Exception as error:
            ended.append(error)

    began = time.monotonic()
    with pytest.raises(lambda_pool.NotCommitted, match="still at work"), pool.connection() as conn:
        my.insert(conn, 0)
        my.insert(conn, 10)
        thread = threading.Thread(target=late, args=(conn,))
        thread.start()
        time.sleep(0.3)
    assert time.monotonic() - began < 5
    thread.join(5)
    assert not thread.is_alive()
    assert [isinstance(error, pymysql.MySQLError) for error in ended] == [True], ended
    assert my.rows() == []
    assert pool.stats().size == 0


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_second_thread_amid_the_firsts_statement_is_refused_and_harms_nothing(my: Database, autocommit: bool) -> None:
    pool = my.pool(autocommit=autocommit)
    ended: list[Any] = []

    def slow(conn: Any) -> None:
        ended.extend(my.query(conn, "select sleep(0.5)"))

    with pool.connection() as conn:
        my.insert(conn, 1)
        thread = threading.Thread(target=slow, args=(conn,))
        thread.start()
        time.sleep(0.2)
        for use in (conn.commit, conn.rollback, lambda: my.insert(conn, 2)):
            with pytest.raises(pymysql.InterfaceError, match="another task or thread waits"):
                use()
        thread.join(5)
        my.insert(conn, 3)
    assert ended == [(0,)]
    assert my.rows() == [1, 3]
    assert pool.stats().idle == pool.stats().opened == 1


def test_a_streamed_result_that_failed_halfway(my: Database) -> None:
    """Even if the cursor was made by hand, so that nobody reports the error."""
    pool = my.pool()
    rows = "select if(seq < 3000, repeat('x', 100), (select 1 union select 2)) from seq_1_to_4000"
    for make in (lambda conn: conn.cursor(SSCursor), SSCursor):
        with pool.connection() as conn:
            my.insert(conn, 1)
            cursor = make(conn)
            with pytest.raises(pymysql.MySQLError, match="1242"):
                cursor.execute(rows)
                cursor.fetchall()
        assert my.rows() == [1]
        my.execute(f"delete from {my.table}")
    assert pool.stats().opened == 1


@pytest.mark.parametrize("command", ["show_warnings", "set_character_set"])
@pytest.mark.parametrize("before", ["a duplicate", "a stream", "an unread stream"])
@pytest.mark.filterwarnings("ignore:Previous unbuffered result")
def test_a_command_of_the_drivers_own_hides_no_open_transaction(my: Database, before: str, command: str) -> None:
    my.execute(f"insert into {my.table} values (1)")
    pool = my.pool(reset="transaction")
    with pool.connection() as conn:
        if before == "a duplicate":
            with pytest.raises(pymysql.IntegrityError):
                my.insert(conn, 1)
        else:
            stream = conn.cursor(SSCursor)
            stream.execute(f"select * from {my.table}")
            if before == "a stream":
                stream.fetchall()
        conn.show_warnings() if command == "show_warnings" else conn.set_character_set("utf8mb4")
    my.execute(f"insert into {my.table} values (2)")
    with pool.connection() as conn:
        assert my.genuine or my.query(conn, "select @@in_transaction") == [(0,)]
        assert my.query(conn, f"select * from {my.table}") == [(1,), (2,)]
    assert pool.stats().opened == 1


@pytest.mark.parametrize("body", ["select 1", "insert into {table} values (2); commit; select 1"])
def test_a_streamed_result_of_a_procedure_that_leaves_no_transaction_open(my: Database, body: str) -> None:
    """What follows the rows is the procedure's own answer, and says so."""
    my.execute("drop procedure if exists streamed")
    my.execute(f"create procedure streamed() begin {body.format(table=my.table)}; end")
    pool = my.pool()
    for reads in (True, False):
        with pool.connection() as conn, conn.cursor(SSCursor) as cursor:
            cursor.callproc("streamed")
            assert cursor.fetchone() == (1,)
            while reads and cursor.nextset():
                pass
        my.execute(f"delete from {my.table}")
    with pool.connection() as conn:
        with conn.cursor(SSCursor) as cursor:
            cursor.callproc("streamed")
        my.insert(conn, 3)
    assert my.rows()[-1:] == [3]
    assert pool.stats().opened == 1


# --- who a transaction is ---------------------------------------------------------------------------------------------


def saves_and_goes_on(my: Database, between: str) -> Callable[[Any], None]:
    """Work that commits in a way that leaves a transaction open, and then fails."""

    def work(conn: Any) -> None:
        my.insert(conn, 1)
        with conn.cursor() as cursor:
            for statement in between.split(" & "):
                cursor.execute(statement)
                while cursor.nextset():
                    pass
        my.insert(conn, 2)
        raise pymysql.OperationalError(1213, "a real one does the same")

    return work


@pytest.mark.sampled(8, "many cases")
@pytest.mark.parametrize(
    "between",
    [
        "commit and chain",
        "/* x */ commit /* y */ and chain",
        "rollback and chain",
        "commit; begin",
        "select 1; /* x */ commit; start transaction",
        "call ends_it()",
        "prepare it from 'commit and chain' & execute it",
        "begin",
        "set autocommit = 1 & begin",
        "lock tables {table} write & unlock tables & begin",
        "create table {table}_made (id int) & begin",
        "/*!50000 commit */ & begin",
        pytest.param("begin not atomic commit; start transaction; end", marks=pytest.mark.mariadb),
    ],
)
def test_work_that_ended_its_transaction_and_began_another_is_not_replayed(my: Database, between: str) -> None:
    my.execute("create or replace procedure ends_it() begin commit; start transaction; end")
    pool = my.pool(connect_args={"client_flag": CLIENT.MULTI_STATEMENTS} if "commit;" in between else {})
    calls: list[int] = []
    work = saves_and_goes_on(my, between.format(table=my.table))

    def counted(conn: Any) -> None:
        calls.append(1)
        work(conn)

    with pytest.raises(pymysql.OperationalError, match="a real one"):
        pool.run(counted)
    assert calls == [1]
    assert my.rows() == ([] if "rollback" in between else [1])
    my.execute(f"drop table if exists {my.table}_made")


@pytest.mark.parametrize(
    "between",
    ["call harmless()", "prepare it from 'select 1' & execute it", "savepoint x & rollback to x", "analyze table a"],
)
def test_work_that_only_might_have_is_replayed(my: Database, between: str) -> None:
    """The server is asked once the work has failed; a statement that commits shows it by itself."""
    my.execute("create or replace procedure harmless() begin end")
    my.execute("create or replace table a (id int) engine=innodb")
    calls: list[int] = []
    work = saves_and_goes_on(my, between)

    def counted(conn: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            work(conn)
        my.insert(conn, 3)

    if between.startswith("analyze"):
        with pytest.raises(pymysql.OperationalError):
            my.pool().run(counted)
        assert my.rows() == [1]
    else:
        my.pool().run(counted)
        assert (calls, my.rows()) == ([1, 1], [3])


def test_the_mark_costs_no_round_trip() -> None:
    """START TRANSACTION and the savepoint are sent in one write."""
    with MariaDbServer(log_statements=True) as server:
        pool = lambda_pool.Pool(server.url(), observers=())
        with pool.connection() as conn:
            pass
        with written(conn) as writes:
            pool.run(lambda conn: conn.cursor().execute("select 1"))
        assert writes == [b"START TRANSACTION", b"select 1", b"COMMIT"]
        assert "SAVEPOINT lambda_pool_run" in server.log
        pool.close()


@pytest.mark.mariadb
@pytest.mark.parametrize("autocommit", [False, True])
def test_run_works_where_begin_begins_a_block_of_statements(my: Database, autocommit: bool) -> None:
    pool = my.pool(f"{my.url}&sql_mode=ORACLE", autocommit=autocommit)
    pool.run(lambda conn: my.insert(conn, 1))
    assert my.rows() == [1]


# --- two phases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raises", [False, True])
def test_a_prepared_transaction_that_is_left_behind_is_told(
    my: Database, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds its locks. MariaDB also refuses the COMMIT of its session."""
    pool, xid = my.pool(), f"'{my.table}'"
    with suppress(ZeroDivisionError, pymysql.OperationalError), pool.connection() as conn:
        for statement in (
            f"xa begin {xid}",
            f"insert into {my.table} values (1)",
            f"xa end {xid}",
            f"XA PREPARE {xid}",
        ):
            my.query(conn, statement)
        backend = my.backend(conn)
        if raises:
            1 / 0  # noqa: B018
    assert f"left the prepared transaction {xid} behind" in caplog.text
    assert "until it is ended by XA COMMIT or XA ROLLBACK with its xid" in caplog.text
    assert my.genuine or my.is_gone(backend)  # MariaDB closes it, and until then nobody else may end the transaction
    my.execute(f"xa rollback {xid}")
    caplog.clear()
    with pool.connection() as conn:
        for verb in ("begin", "end", "prepare", "commit"):
            my.query(conn, f"/* both phases */ xa {verb} {xid};")
            if verb == "begin":
                my.insert(conn, 2)
    assert not caplog.text
    assert my.rows() == [2]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in its thread", "in another thread"])
@pytest.mark.filterwarnings("ignore:Previous unbuffered result")
def test_a_forgotten_stream_that_is_collected_amid_a_command_reads_nothing(
    my: Database, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector runs at any time, in any thread: two would read one answer, or one wait for the other's."""
    with my.pool(max_size=1).connection() as conn:
        stream = conn.cursor(SSCursor)
        stream.execute("select " + " union all select ".join(map(str, range(100))))
        assert stream.fetchone() == (0,)
        around: list[Any] = [stream]
        around.append(around)
        genuine, reads = conn._read_bytes, count(1)

        def read(size: int) -> Any:
            if next(reads) == 4:  # the header of a packet was read, and not yet what it announces
                if elsewhere:
                    thread = threading.Thread(target=gc.collect)
                    thread.start()
                    thread.join(5)
                else:
                    gc.collect()
            return genuine(size)

        monkeypatch.setattr(conn, "_read_bytes", read)
        collected = ref(stream)
        del stream, around
        given_up = threading.Timer(10, partial(shut_down, conn.sock.fileno()))
        given_up.start()
        gc.disable()
        try:
            assert my.query(conn, "select 42") == [(42,)]
        finally:
            gc.enable()
            given_up.cancel()
        monkeypatch.undo()
        assert collected() is None
