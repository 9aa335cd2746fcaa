"""What is sent and read arrives as it is, and in the time that the user allows."""

import pymysql
import pytest

from tests.contract.conftest import Database


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


@pytest.mark.sampled(1 / 3, "5 s")
def test_a_read_timeout_of_the_users_own_holds(my: Database) -> None:
    pool = my.pool(connect_args={"read_timeout": 0.2})
    with pytest.raises(pymysql.OperationalError, match="timed out"), pool.connection() as conn:
        my.insert(conn, 1)
        my.query(conn, "select sleep(20)")
