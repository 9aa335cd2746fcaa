"""The scripted database takes handlers as they are written for the drivers."""

from typing import Any

from lambda_pool.testing import FakeDriver


def test_a_handler_with_a_cursor() -> None:
    driver = FakeDriver(answers={"select article from orders": [("tea",), ("milk",), ("rum",)]})

    @driver.pool().handler
    def handler(event: Any, context: Any, conn: Any) -> list[Any]:
        with conn.cursor() as cursor:
            cursor.execute("insert into orders (article) values (%s)", [event["article"]])
            assert (cursor.rowcount, cursor.fetchone()) == (1, None)
            cursor.executemany("insert into orders (article) values (%s)", [["milk"], ["rum"]])
            cursor.execute("select article from orders")
            return [cursor.rowcount, cursor.fetchone(), *cursor.fetchmany(), *cursor]

    assert handler({"article": "tea"}, None) == [3, ("tea",), ("milk",), ("rum",)]
    assert [text[:6] for text in driver.links[0].driver_connection.statements] == ["insert"] * 3 + ["select"]


def test_a_handler_that_commits_and_rolls_back_itself() -> None:
    driver = FakeDriver()

    @driver.pool().handler
    def handler(event: Any, context: Any, conn: Any) -> None:
        conn.execute("insert")
        conn.commit()
        conn.execute("insert")
        conn.rollback()

    handler({}, None)
    assert driver.links[0].history == ["execute", "commit", "execute", "rollback"]
