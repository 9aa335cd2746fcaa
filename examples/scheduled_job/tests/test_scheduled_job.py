"""Each order is settled once, however often the event comes."""


def test_orders_are_settled_once(call, database):
    assert call() == {"amount": "2.5", "orders": 2}
    database.end_sessions()
    # If the event is delivered again, the job settles nothing, and says so.
    assert call() == {"amount": "0", "orders": 0}
    assert database.execute("select amount::text, orders from settlements") == [("2.5", 2)]
