"""Before and after, through the same faults."""


def test_only_the_first_fails_after_a_failover_and_saves_half_of_an_order(start, database):
    before, after = start("before.handler"), start("app.handler")
    for function in (before, after):
        assert function.invoke({"article": "tea"}).error is None
        function.freeze()
    database.end_sessions()
    for function in (before, after):
        function.thaw()
    assert before.invoke({"article": "milk"}).error is not None
    assert after.invoke({"article": "milk"}).error is None
    assert database.execute("select article from orders order by number") == [("tea",), ("tea",), ("milk",)]
    # Work that failed half way: the first function's next good invocation saves it, the second function never does.
    assert before.invoke({"article": "tea"}).error is None
    for function in (before, after):
        assert function.invoke({"article": "air", "fail": True}).error is not None
        assert function.invoke({"article": "tea"}).error is None
    assert database.execute("select count(*) from orders where article = 'air'") == [(1,)]
