"""Both databases are saved, or neither."""


def test_both_or_neither(start, database, mysql_server, folder):
    mysql_server.execute("drop table if exists sales")
    mysql_server.execute((folder / "schema.mysql.sql").read_text())
    function = start("app.handler", ORDERS_URL=database.url, REPORTS_URL=mysql_server.url())
    numbers = [function.invoke({"article": "tea"}).payload for _ in range(2)]
    assert mysql_server.execute("select article, number from sales") == [("tea", number) for number in numbers]
    assert function.invoke({"article": "air", "fail": True}).error is not None
    assert database.execute("select article from orders") == [("tea",), ("tea",)]
    assert mysql_server.execute("select count(*) from sales") == [(2,)]
