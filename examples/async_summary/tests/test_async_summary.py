"""An `async def` handler on the genuine runtime."""


def test_three_questions_at_once(call, database):
    database.execute("insert into orders (article, amount) values ('tea', 2), ('tea', 3)")
    assert call({"article": "tea"}) == {"orders": 2, "amount": 5, "left_over": 1}
    assert call({"article": "none"}) == {"orders": 0, "amount": 0, "left_over": 0}


def test_after_a_failover(call, database):
    call({"article": "tea"})
    call.runtime.freeze()
    database.end_sessions()
    call.runtime.thaw()
    assert call({"article": "milk"})["left_over"] == 0
