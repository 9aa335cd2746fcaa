"""MySQL: PyMySQL used by its public API, its private parts guarded, and errors of its socket told apart by kind."""

import contextlib
import inspect
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pymysql
import pytest
from pymysql.connections import Connection, MySQLResult
from pymysql.constants import CR
from pymysql.cursors import Cursor, SSCursor
from pymysql.protocol import MysqlPacket

import lambda_pool
from lambda_pool.engines.base import Failure
from lambda_pool.engines.bounded_socket import shut_down
from lambda_pool.engines.pymysql import private
from lambda_pool.engines.pymysql.engine import MysqlEngine
from lambda_pool.engines.pymysql.errors import classify, is_refusal
from lambda_pool.engines.pymysql.statements import Look, look
from lambda_pool.engines.pymysql.wire import Line, dial
from lambda_pool.testing import FaultyProxy
from lambda_pool.waiting import OverdueError
from tests.contract.conftest import Database
from tests.support.alarm import alarm
from tests.support.context import LambdaContext
from tests.support.upload import endless

PACKAGE = Path(private.__file__).parent
_NAME = re.compile(r"\.(_[a-z]\w*)")


# --- the driver's own names -------------------------------------------------------------------------------------------


def names_of_the_driver() -> set[str]:
    """Every private name that the driver's objects have."""
    conn: Any = Connection(defer_connect=True, ssl_disabled=True)
    instances = (conn, MySQLResult(conn))
    classes = (Connection, MySQLResult, Cursor, SSCursor, MysqlPacket)
    found = {name for each in (*instances, *classes) for name in dir(each)}
    return {name for name in found if name.startswith("_") and not name.startswith("__")}


def test_private_names_stand_in_one_file() -> None:
    theirs = names_of_the_driver()
    assert set(private.NAMES) < theirs
    for path in PACKAGE.glob("*.py"):
        used = set(_NAME.findall(path.read_text())) & theirs
        assert used == (set(private.NAMES) if path.name == "private.py" else set()), path.name
        # None of them is overridden either.
        assert not set(re.findall(r"def (_[a-z]\w*)", path.read_text())) & theirs, path.name


def test_all_that_is_overridden_is_there() -> None:
    from lambda_pool.engines.pymysql.connection import BoundedConnection

    source = inspect.getsource(BoundedConnection)
    called = set(re.findall(r"super\(\)\.(\w+)", source)) - {"__init__"}
    assert {"query", "commit", "rollback", "begin", "ping", "close"} < called
    assert all(callable(getattr(Connection, name)) for name in called)


@pytest.mark.parametrize(("owner", "name"), [(MySQLResult, "_finish_unbuffered_query")])
def test_a_driver_without_a_name_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    monkeypatch.delattr(owner, name)
    with pytest.raises(lambda_pool.ConfigError, match=rf"PyMySQL {re.escape(pymysql.VERSION_STRING)}: .*{name}"):
        MysqlEngine().load()


def test_a_driver_that_no_longer_goes_by_what_is_overridden(my: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """For cursors that send by themselves, the first statement is refused before it is sent."""
    old: Any = Connection
    send, answer = old._execute_command, old._read_query_result

    def query(self: Any, text: str) -> int:
        conn = self._get_db()
        send(conn, 3, text)
        answer(conn)
        self._do_get_result()
        return int(self.rowcount)

    pool = my.pool()
    with pool.connection():
        pass
    monkeypatch.setattr(Cursor, "_query", query)
    with pytest.raises(lambda_pool.ConfigError, match=re.escape(pymysql.VERSION_STRING)):
        pool.run(lambda conn: conn.cursor().execute(f"insert into {my.table} values (1)"))
    monkeypatch.undo()
    assert my.rows() == []


# --- whose exception it is --------------------------------------------------------------------------------------------


class MineError(TimeoutError):
    """The exception of a user's own time limit: an OSError, like those of the driver."""


@pytest.mark.sampled(10, "half a second a case")
@pytest.mark.parametrize("kind", [TimeoutError, MineError, ValueError])
@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("when", ["connect", "ping", "begin", "statement", "stream", "commit", "rollback", "restore"])
def test_a_signal_handlers_exception_passes_as_it_is(my: Database, when: str, tls: bool, kind: type[Exception]) -> None:
    error = kind("mine")
    rows = "select repeat('x', 1000000) from seq_1_to_1000"
    with FaultyProxy("127.0.0.1", my.server.port) as proxy:
        url = my.url if tls else f"{my.server.url(tls=False)}?sslmode=disable"
        url = url.replace(f":{my.server.port}/", f":{proxy.port}/")
        options: dict[str, Any] = {"ping_timeout": 5.0, "timeout": 5.0}
        pool = my.pool(url, ping_after=0.0 if when == "ping" else 60.0, reset="changed", **options)
        if when != "connect":
            pool.warm(strict=True)
        start = time.monotonic()

        def work(conn: Any) -> None:
            if when in {"statement", "commit", "rollback", "restore"}:
                my.query(conn, "set @left = 1" if when == "restore" else f"insert into {my.table} values (1)")
            if when == "stream":
                cursor = conn.cursor(SSCursor)
                cursor.execute(rows)
                cursor.fetchone()
            proxy.black_hole()
            if when == "statement":
                my.query(conn, "select 1")
            elif when == "stream":
                cursor.fetchall()
            elif when == "rollback":
                conn.rollback()

        with alarm(0.4, error), pytest.raises(lambda_pool.CommitUncertain if when == "commit" else kind) as caught:
            if when in {"connect", "ping", "begin"}:
                proxy.black_hole()
            if when == "begin":
                pool.run(work)
            else:
                with pool.connection() as conn:
                    work(conn)
        assert (caught.value.__cause__ if when == "commit" else caught.value) is error
        assert time.monotonic() - start < 4
        assert pool.stats().in_use == 0
        proxy.heal()
        proxy.close()
        with pool.connection() as conn:
            assert my.query(conn, "select 42") == [(42,)]
    assert my.rows() == []


@pytest.mark.sampled(2, "half a second a case")
@pytest.mark.parametrize("tls", [True, False])
@pytest.mark.parametrize("lost", [True, False])
def test_what_ends_a_load_of_local_data_passes_as_it_is(my: Database, tmp_path: Path, lost: bool, tls: bool) -> None:
    """PyMySQL sends the end of the file then: into a connection that is lost, or into the middle of a packet."""
    my.execute("set global local_infile = 1")
    error = ZeroDivisionError("mine")
    url = my.url if tls else f"{my.server.url(tls=False)}?sslmode=disable"
    pool = my.pool(url, connect_args={"local_infile": True})
    my.execute(f"insert into {my.table} values (1)")
    start = time.monotonic()
    with my.pool(name="holder").connection() as holder, endless(tmp_path) as path:
        my.query(holder, f"select id from {my.table} for update")
        with pytest.raises(pymysql.OperationalError if lost else ZeroDivisionError) as caught:
            with alarm(5 if lost else 0.4, error), pool.connection() as conn:
                backend = my.backend(conn)
                if lost:
                    threading.Timer(0.4, shut_down, [conn.sock.fileno()]).start()
                my.query(conn, f"load data local infile '{path}' into table {my.table}")
    assert time.monotonic() - start < 4
    assert caught.value is error or caught.value.args[0] == CR.CR_SERVER_GONE_ERROR
    with contextlib.suppress(pymysql.OperationalError):  # it may have ended
        my.kill(backend)  # a busy server would work on all that was sent for longer than its table may be locked
    assert my.rows() == [1]


def test_the_drivers_error_in_a_users_except_block_is_the_drivers(my: Database) -> None:
    """The exception that is being handled there is the context of every error."""
    with pytest.raises(lambda_pool.LambdaPoolError), my.pool().connection() as conn:
        try:
            raise TimeoutError("mine, and handled")
        except TimeoutError:
            my.kill(my.backend(conn))
            with pytest.raises(pymysql.OperationalError):
                my.query(conn, "select 1")
            with pytest.raises(pymysql.MySQLError):
                my.query(conn, "select 1")


# --- connecting -------------------------------------------------------------------------------------------------------


def test_a_unix_socket_that_too_many_connect_to_is_waited_for(tmp_path: Path) -> None:
    """The system refuses at once, instead of waiting, if a socket does not block."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as others:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        with pytest.raises(BlockingIOError):
            while True:
                other = others.enter_context(socket.socket(socket.AF_UNIX))
                other.setblocking(False)
                other.connect(str(tmp_path / "s"))
        addresses = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", str(tmp_path / "s"))]
        line = Line()
        line.deadline = time.monotonic() + 0.1
        with pytest.raises(OverdueError):
            dial(addresses, line.deadline, line)
        line.deadline = time.monotonic() + 10
        threading.Timer(0.1, lambda: others.enter_context(listener.accept()[0])).start()
        dial(addresses, line.deadline, line).close()


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("silence", ["listens", "accepts"])
def test_a_name_with_two_addresses_of_which_the_first_is_silent(
    my: Database, monkeypatch: pytest.MonkeyPatch, silence: str
) -> None:
    genuine = socket.getaddrinfo
    with socket.create_server(("127.0.0.2", my.server.port), backlog=0) as deaf:
        filler = [socket.socket() for _ in range(3)]
        if silence == "listens":
            for each in filler:  # until its backlog is full, so that the next SYN is dropped
                each.setblocking(False)
                each.connect_ex(deaf.getsockname())

        def two(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
            found = genuine("127.0.0.1", port, *rest, **named)
            return [(*found[0][:4], ("127.0.0.2", port)), found[0]]

        monkeypatch.setattr(socket, "getaddrinfo", two)
        pool = my.pool(timeout=3.0, connect_timeout=3.0)
        start = time.monotonic()
        with pool.connection() as conn:
            assert my.query(conn, "select 42") == [(42,)]
        assert time.monotonic() - start < 3
        assert pool.stats().connect_errors == 0
        for each in filler:
            each.close()


@pytest.mark.sampled(1 / 3, "4 s")
def test_the_only_address_has_all_of_the_time(my: Database) -> None:
    with FaultyProxy("127.0.0.1", my.server.port) as proxy:
        proxy.delay(0.4)
        pool = my.pool(my.url.replace(f":{my.server.port}/", f":{proxy.port}/"), timeout=20.0, connect_timeout=20.0)
        with pool.connection() as conn:
            assert my.query(conn, "select 42") == [(42,)]


def test_a_server_that_goes_away_in_the_tls_handshake_is_asked_again(my: Database) -> None:
    pieces: list[bytes] = []

    def hear(piece: bytes) -> None:
        pieces.append(piece)
        if len(pieces) == 2:  # after the request for TLS
            proxy.close()

    with FaultyProxy("127.0.0.1", my.server.port, listen=lambda _: hear) as proxy:
        pool = my.pool(my.url.replace(f":{my.server.port}/", f":{proxy.port}/"), timeout=20.0)
        with pool.connection() as conn:
            assert my.query(conn, "select 42") == [(42,)]
    assert pool.stats().connect_errors == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ((1044, "Access denied for user 'a'@'%' to database 'b'"), Failure.REJECTED),
        ((1862, "Your password has expired."), Failure.REJECTED),
        ((3118, "Access denied for user 'a'@'%'. Account is locked."), Failure.REJECTED),
        ((4151, "Access denied, this account is locked"), Failure.REJECTED),
        ((1226, "User 'a' has exceeded the 'max_user_connections' resource (current value: 1)"), Failure.TOO_MANY),
        ((1226, "User 'a' has exceeded the 'max_connections_per_hour' resource (current value: 1)"), Failure.OTHER),
        ((1226, "User 'a' has exceeded the 'max_queries_per_hour' resource (current value: 1)"), Failure.OTHER),
        ((1226, "User 'a' has exceeded the 'max_updates_per_hour' resource (current value: 1)"), Failure.OTHER),
        ((3159, "Connections using insecure transport are prohibited"), Failure.UNTRUSTED),
        ((2003, "Can't connect ([SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed)"), Failure.UNTRUSTED),
        ((2003, "Can't connect ([SSL: WRONG_VERSION_NUMBER] wrong version number)"), Failure.UNTRUSTED),
        ((2003, "Can't connect (EOF occurred in violation of protocol (_ssl.c:1006))"), Failure.LOST),
        ((2003, "Can't connect (TLS/SSL connection has been closed (EOF))"), Failure.LOST),
        ((1152, "Aborted connection"), Failure.LOST),
        ((1158, "Got an error reading communication packets"), Failure.LOST),
        ((1161, "Got timeout writing communication packets"), Failure.LOST),
        ((1927, "Connection was killed"), Failure.LOST),
        ((1153, "Got a packet bigger than 'max_allowed_packet' bytes"), Failure.OTHER),
        ((1020, "Record has changed since last read"), Failure.CONFLICT),
        ((1412, "Table definition has changed, please retry transaction"), Failure.CONFLICT),
        ((1615, "Prepared statement needs to be re-prepared"), Failure.CONFLICT),
        ((1792, "Cannot execute statement in a READ ONLY transaction."), Failure.READ_ONLY),
        ((1290, "The MySQL server is running with the --read-only option"), Failure.READ_ONLY),
        ((1290, "The MariaDB server is running with the --secure-file-priv option"), Failure.OTHER),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else "",
)
def test_what_a_number_means(error: tuple[int, str], kind: Failure) -> None:
    assert classify(pymysql.OperationalError(*error)) is kind


def test_an_answer_to_commit_that_tells_of_a_loss_is_no_refusal() -> None:
    assert is_refusal(pymysql.OperationalError(1213, "deadlock"))
    assert not is_refusal(pymysql.OperationalError(1927, "Connection was killed"))
    assert not is_refusal(pymysql.OperationalError(2013, "Lost connection"))
    assert classify(TimeoutError("the user's own")) is Failure.OTHER


def test_so_many_an_hour_is_not_tried_again(my: Database) -> None:
    my.execute("create or replace user hourly@'%' identified by 'hourly' with max_connections_per_hour 1")
    my.execute("grant all on app.* to hourly@'%'")
    url = my.server.url("hourly", "hourly")
    with my.pool(url).connection():
        pass
    pool = my.pool(url, timeout=10.0)
    start = time.monotonic()
    with pytest.raises(lambda_pool.ConnectError, match="max_connections_per_hour"), pool.connection():
        pass
    assert time.monotonic() - start < 5
    assert pool.stats().connect_errors == 1


@pytest.mark.parametrize("how", ["locked", "no such right"])
def test_a_login_that_is_refused_is_told_as_one(my: Database, how: str) -> None:
    my.execute("create or replace user turned_away@'%' identified by 'turned_away'")
    if how == "locked":
        my.execute("alter user turned_away@'%' account lock")
    pool = my.pool(my.server.url("turned_away", "turned_away"), timeout=10.0)
    with pytest.raises(lambda_pool.CredentialsError), pool.connection():
        pass
    assert pool.stats().connect_errors == 1


# --- statements -------------------------------------------------------------------------------------------------------


def test_a_refused_write_of_a_server_that_only_reads_is_a_failover(my: Database) -> None:
    pool = my.pool()
    try:
        pool.warm(strict=True)
        my.execute("set global tx_read_only = 1")
        pool.close()
        calls: list[int] = []

        def work(conn: Any) -> None:
            calls.append(1)
            if len(calls) == 2:
                my.execute("set global tx_read_only = 0")
                raise pymysql.OperationalError(1792, "as before")
            my.insert(conn, 1)

        pool.run(work)
        assert len(calls) == 3
        assert my.rows() == [1]
    finally:
        my.execute("set global tx_read_only = 0")


def test_a_commit_that_a_server_that_only_reads_refuses_is_a_failover_too(my: Database) -> None:
    my.execute("create or replace user writer@'%' identified by 'right'")
    my.execute("grant all on app.* to writer@'%'")
    pool = my.pool(my.url.replace(f"{my.server.user}:{my.server.password}", "writer:right"))
    calls: list[int] = []

    def work(conn: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            my.execute("set global read_only = 0")
        my.insert(conn, len(calls))
        if len(calls) == 1:
            my.execute("set global read_only = 1")

    try:
        pool.run(work)
    finally:
        my.execute("set global read_only = 0")
    assert (my.rows(), len(calls), pool.stats().opened) == ([2], 2, 2)


@pytest.mark.parametrize("asked", ["pool", "start transaction read only", "set session transaction read only"])
def test_a_write_that_its_own_transaction_refuses_is_none(my: Database, asked: str) -> None:
    pool = my.pool()
    with pytest.raises(pymysql.MySQLError, match="1792"), pool.connection(readonly=asked == "pool") as conn:
        if asked != "pool":
            my.query(conn, asked)
        my.insert(conn, 1)
    with pool.connection() as conn:
        my.insert(conn, 2)
    assert my.rows() == [2]
    assert pool.stats().opened == 1


@pytest.mark.parametrize("pooled", ["0", "1"])
def test_a_read_only_borrow_hides_no_failover_from_the_next(my: Database, pooled: str) -> None:
    """Behind a pooler, the session itself is not made read-only."""
    pool = my.pool(f"{my.url}{'&' if '?' in my.url else '?'}pooled={pooled}")
    with pool.connection(readonly=True) as conn:
        my.query(conn, f"select id from {my.table}")
    with pytest.raises(pymysql.OperationalError), pool.connection():
        raise pymysql.OperationalError(1290, "The MySQL server is running with the --read-only option")
    with pool.connection() as conn:
        my.insert(conn, 1)
    assert pool.stats().opened == 2


def test_a_read_only_borrow_leaves_nothing_read_only_behind(my: Database) -> None:
    """Its borrower ended the transaction, and sent nothing that begins another."""
    pool = my.pool()
    with pool.connection(readonly=True) as conn:
        conn.commit()
        my.query(conn, "select 1")
    with pool.connection() as conn:
        my.insert(conn, 1)
    assert (my.rows(), pool.stats().opened) == ([1], 1)


@pytest.mark.mariadb
@pytest.mark.parametrize("autocommit", [False, True])
def test_an_error_of_the_servers_files_is_an_answer(my: Database, autocommit: bool) -> None:
    """Their numbers are below 1000."""
    pool = my.pool(autocommit=autocommit)
    with pool.connection() as conn:
        my.insert(conn, 1)
        with pytest.raises(pymysql.InternalError, match="create/write to file"):
            my.query(conn, "select 1 into outfile '/nowhere/at/all'")
        my.insert(conn, 2)
    assert (my.rows(), pool.stats().opened) == ([1, 2], 1)


@pytest.mark.parametrize("how", ["said by the server", "cut off while it is sent"])
def test_a_statement_that_is_too_long_is_told_and_not_sent_again(my: Database, how: str) -> None:
    """The server's own message is lost if it closes its end of the connection before everything was sent."""
    size = my.execute("select @@global.max_allowed_packet")[0][0]
    my.execute("set global max_allowed_packet = 1048576")
    try:
        with FaultyProxy("127.0.0.1", my.server.port) as proxy:
            pool = my.pool(my.url.replace(f":{my.server.port}/", f":{proxy.port}/"))
            calls: list[int] = []

            def work(conn: Any) -> None:
                calls.append(1)
                my.insert(conn, 1)
                if how != "said by the server":
                    my.query(conn, f"select length('{'x' * 1_000_000}')")  # so that it knows what the server accepts
                    proxy.swallow("to_client", new=False)
                    proxy.cut(after=1_000_000, direction="to_server")
                my.query(conn, f"select length('{'x' * 2_000_000}')")

            with pytest.raises(pymysql.OperationalError, match=r"20000\d\d bytes long.*1048576.*max_allowed_packet"):
                pool.run(work)
            assert calls == [1]
            with pool.connection() as conn:
                assert my.query(conn, f"select length('{'x' * 1_000_000}')") == [(1_000_000,)]
        assert my.rows() == []
    finally:
        my.execute(f"set global max_allowed_packet = {size}")


def test_a_statement_that_is_one_byte_too_long(my: Database) -> None:
    """The server refuses a packet that is just as long as max_allowed_packet."""
    size = my.execute("select @@global.max_allowed_packet")[0][0]
    my.execute("set global max_allowed_packet = 1048576")
    try:
        pool, calls = my.pool(), []
        room = 1048576 - len("Cselect length('')")  # C: the byte that says which command it is

        def work(conn: Any, length: int) -> list[tuple[Any, ...]]:
            calls.append(length)
            return my.query(conn, f"select length('{'x' * length}')")

        assert pool.run(lambda conn: work(conn, room - 1)) == [(room - 1,)]
        with pytest.raises(
            pymysql.OperationalError, match="1048576 bytes long, and the server takes less than 1048576"
        ):
            pool.run(lambda conn: work(conn, room))
        assert calls == [room - 1, room]
    finally:
        my.execute(f"set global max_allowed_packet = {size}")


@pytest.mark.parametrize("autocommit", [False, True])
@pytest.mark.parametrize("sql", ["insert into {0} values (2) /*{1}*/", "call save('{1}')", "commit /*{1}*/"])
def test_a_text_that_cannot_be_encoded_ends_no_transaction(my: Database, sql: str, autocommit: bool) -> None:
    """Half of an emoji, as a client that cuts text may put into JSON. Nothing is sent."""
    pool = my.pool(autocommit=autocommit)
    with pool.connection() as conn:
        my.insert(conn, 1)
        with pytest.raises(UnicodeEncodeError):
            my.query(conn, sql.format(my.table, "\ud83d"))
        my.insert(conn, 3)
    assert (my.rows(), pool.stats().opened) == ([1, 3], 1)


def test_a_long_answer_to_what_the_pool_asks_is_honest(my: Database) -> None:
    """The answer to its own first command may have megabytes."""
    first = "select repeat('x', 100000) from seq_1_to_50"
    with my.pool(connect_args={"init_command": first}).connection() as conn:
        assert my.query(conn, "select 1") == [(1,)]


def test_a_very_long_comment_is_looked_past_in_no_time() -> None:
    for text in (" " * 100_000, "/* " * 50_000, "/**/" * 50_000, "#\n" * 50_000, "(" * 100_000, "-- x\n" * 20_000):
        start = time.monotonic()
        seen = look(text + "commit", several=False)
        assert time.monotonic() - start < 2
        assert seen.may_end


@pytest.mark.parametrize(
    ("statement", "fact"),
    [
        ("/* a */ -- b\n # c\n ( use x", "moves"),
        ("/*!40000 SET */ /* b */ ROLE x", "role"),
        ("lock instance for backup", "locks"),
        ("LOCK TABLES t READ", "locks"),
        ("flush tables t for export", "locks"),
        ("Flush Local Tables With  Read\nLock", "locks"),
        ("backup lock t", "locks"),
        ("handler t open", "locks"),
        ("select Get_Lock ('a', 1)", "named_lock"),
        ("with x as (select 1) select get_lock('a', 1)", "named_lock"),
        ("set @a = get_lock('a', 1)", "named_lock"),
        ("set session transaction read only", "read_only"),
        ("start transaction with consistent snapshot, read only", "read_only"),
        ("set @@session.tx_read_only = 1", "transaction"),
        ("set SESSION transaction_isolation = 'SERIALIZABLE'", "transaction"),
        ("select @a := 1", "changes"),
        ("select @`a b` := 1", "changes"),
        ("set @@sql_mode = ''", "changes"),
        ("execute immediate 'set @@sql_mode = 0'", "changes"),
        ("set session_track_state_change = off", "changes"),
        ("select @`a``b` := 1", "changes"),
        ("select @'it''s' := 1", "changes"),
        ("select @`it's` := 1", "changes"),
        ("rollback work to savepoint x", "to_savepoint"),
        ("rollback to x", "to_savepoint"),
        ("rollback", "may_end"),
        ("set password = 'x'", "may_end"),
        ("xa start 'x'", "may_end"),
        ("", "may_end"),
        ("/* x */ ALTER table t add c int", "implicit"),
        ("create or replace table t (temporary int)", "implicit"),
        ("analyze local table t", "implicit"),
        ("set password = 'x'", "implicit"),
        ("set default role none", "implicit"),
        ("set default role none", "may_end"),
        ("import table from '/t.sdi'", "implicit"),
        ("backup stage start", "implicit"),
        ("set @@session.autocommit := 'ON'", "commits"),
        ("set autocommit = @kept", "commits"),
        ("set session autocommit  =  off", "may_end but not commits"),
        ("call p()", "opaque"),
        ("begin not atomic commit; end", "opaque"),
        ("rollback", "reads"),
        ("load data infile 'x' into table t", "writes"),
        ("select ';' -- commit", "nothing but reads"),
        ("insert into t values ('; use x')", "nothing but writes"),
    ],
)
def test_what_a_statement_says_of_itself(statement: str, fact: str) -> None:
    for text in (statement, statement.encode()):
        seen = look(text, several=False)
        if " but not " in fact:
            is_so, is_not = fact.split(" but not ")
            assert getattr(seen, is_so)
            assert not getattr(seen, is_not)
        elif fact.startswith("nothing but "):
            assert seen == Look(**{fact.removeprefix("nothing but "): True}), seen
        else:
            assert getattr(seen, fact), seen


@pytest.mark.parametrize(
    "statement",
    [
        "create temporary table t (id int)",
        "create /* x */ or replace /* y */ temporary table t (id int)",
        "drop temporary table t",
        "analyze format=json update t set id = 1",
        "start transaction",
        "set @a = 1",
    ],
)
def test_what_commits_nothing_by_itself(statement: str) -> None:
    assert not look(statement, several=False).implicit


def test_a_lock_of_the_line_is_no_matter(my: Database) -> None:
    """If another thread is reading when the block ends, this is noticed at once and holds nothing up."""
    pool = my.pool()
    heard: list[BaseException] = []

    def late(conn: Any) -> None:
        try:
            my.query(conn, "select sleep(20)")
        except pymysql.MySQLError as error:
            heard.append(error)

    start = time.monotonic()
    with pytest.raises(lambda_pool.LambdaPoolError), pool.connection() as conn:
        thread = threading.Thread(target=late, args=(conn,))
        thread.start()
        time.sleep(0.3)
    thread.join(10)
    assert heard
    assert time.monotonic() - start < 10


def test_an_answer_that_ends_amid_a_piece_of_the_next(my: Database) -> None:
    """Two questions went out at once. Without TLS, what comes back may be cut anywhere."""

    def in_two(sock: Any) -> Callable[..., int]:
        read = sock.recv_into

        def recv_into(buffer: Any, *arguments: Any) -> int:
            if sock.line.dry:
                return 0
            time.sleep(0.05)  # until both answers are there
            there = len(sock.recv(1 << 16, socket.MSG_PEEK))
            return int(read(memoryview(buffer)[: there - 20 if there > 200 else there], *arguments))

        return recv_into

    server = my.server
    login = f"{server.user}:{server.password}@127.0.0.1:{server.port}/{server.database}"
    pool = my.pool(f"mysql://{login}?sslmode=disable")

    @pool.handler
    def handler(event: Any, context: Any, conn: Any) -> None:
        conn.sock.recv_into = in_two(conn.sock)

    handler({}, LambdaContext())
    assert (pool.stats().idle, pool.stats().opened) == (1, 1)
