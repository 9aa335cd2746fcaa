"""MySQL's packets, which the connection reads itself: whole, in pieces, out of step, and with an error in them."""

import io
import struct

import pymysql
import pytest

from lambda_pool.engines.pymysql.connection import BoundedConnection
from tests.contract.conftest import Database


def reading(*packets: bytes) -> BoundedConnection:
    """A connection that has a server's packets before it."""
    conn = BoundedConnection(defer_connect=True)
    conn._rfile = io.BytesIO(b"".join(packets))
    conn._next_seq_id = 1
    return conn


def packet(number: int, body: bytes) -> bytes:
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


def test_one_after_the_other() -> None:
    conn = reading(packet(1, b"a"), packet(2, b"bc"))
    assert conn._read_packet().get_all_data() == b"a"
    assert conn._read_packet().get_all_data() == b"bc"


def test_the_numbers_go_round() -> None:
    conn = reading(packet(255, b"a"), packet(0, b"b"))
    conn._next_seq_id = 255
    assert conn._read_packet().get_all_data() + conn._read_packet().get_all_data() == b"ab"


@pytest.mark.parametrize("more", [0, 5])
def test_a_long_one_comes_in_pieces(more: int) -> None:
    long = b"x" * 0xFFFFFF
    conn = reading(packet(1, long), packet(2, long), packet(3, b"y" * more), packet(4, b"next"))
    assert conn._read_packet().get_all_data() == 2 * long + b"y" * more
    assert conn._read_packet().get_all_data() == b"next"


@pytest.mark.parametrize(("number", "error"), [(0, pymysql.OperationalError), (7, pymysql.InternalError)])
def test_one_out_of_step_ends_the_connection(number: int, error: type[Exception]) -> None:
    conn = reading(packet(number, b"a"))
    with pytest.raises(error):
        conn._read_packet()
    assert conn._rfile is None


def test_one_that_is_cut_ends_the_connection() -> None:
    conn = reading(packet(1, b"abc")[:-1])
    with pytest.raises(pymysql.OperationalError, match="Lost connection"):
        conn._read_packet()
    assert conn._rfile is None


def test_an_error_is_raised() -> None:
    conn = reading(packet(1, b"\xff" + struct.pack("<H", 1205) + b"#HY000Lock wait timeout exceeded"))
    with pytest.raises(pymysql.OperationalError, match="Lock wait") as raised:
        conn._read_packet()
    assert raised.value.args[0] == 1205


def test_bytes_and_every_character_arrive_as_they_are(database: Database) -> None:
    data, text = bytes(range(256)), "grün, 数, 🎈, \\, ', %"
    with database.pool().connection() as conn:
        if database.engine == "postgresql":
            assert conn.execute("select %s::bytea, %s", (data, text)).fetchone() == (data, text)
        else:
            with conn.cursor() as cursor:
                cursor.execute("select %s, %s", (data, text))
                found = cursor.fetchone()
                assert (found[0] if isinstance(found[0], bytes) else found[0].encode(), found[1]) == (data, text)
                cursor.execute(b"select %s" % b"2")
                assert cursor.fetchone() == (2,)


def test_a_read_timeout_of_the_users_own_holds(my: Database) -> None:
    pool = my.pool(connect_args={"read_timeout": 0.2})
    with pytest.raises(pymysql.OperationalError, match="timed out"), pool.connection() as conn:
        my.insert(conn, 1)
        my.query(conn, "select sleep(20)")
