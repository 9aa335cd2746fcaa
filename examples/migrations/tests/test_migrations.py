"""Migrates up, again, after a failover, down, and to a revision that does not exist."""


def test_it_migrates(start, database):
    function = start("app.handler")
    assert function.invoke({"to": "0001"}).payload == {"revision": "0001"}
    database.execute("insert into invoices (amount) values (7)")
    assert [function.invoke({}).payload for _ in range(2)] == [{"revision": "0002"}] * 2
    assert database.execute("select amount, paid from invoices") == [(7, False)]
    function.freeze()
    database.end_sessions()
    function.thaw()
    assert function.invoke({"to": "-1"}).payload == {"revision": "0001"}
    assert function.invoke({"to": "base"}).payload == {"revision": None}
    assert function.invoke({"to": "nowhere"}).error is not None
    assert database.execute("select to_regclass('invoices')") == [(None,)]
