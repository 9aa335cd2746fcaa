"""With one server, which plays both writer and reader. Resolving the name with the RDS API is tested in tests/tools."""


def test_a_write_is_read(call, database):
    assert call({"article": "tea"}) == {"host": "localhost"}
    assert call({"article": "milk"}) == {"host": "localhost"}
    assert call() == {"host": "localhost", "articles": ["tea", "milk"]}
    assert database.execute("select count(*) from orders") == [(2,)]
