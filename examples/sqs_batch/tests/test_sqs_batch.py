"""Only failed records come back, and nothing is saved twice."""

import json

import pytest


def batch(*orders):
    return {
        "Records": [
            {"messageId": message, "eventSource": "aws:sqs", "body": json.dumps({"article": article, "amount": amount})}
            for message, article, amount in orders
        ]
    }


def test_a_failed_record_comes_back_alone(call, database):
    # Of the last two, the table's check refuses one, and the stock's range refuses the other after the insert.
    database.execute("insert into stock values ('air', -2)")
    answer = call(batch(("m0", "tea", 1), ("m1", "milk", 2), ("m2", "tea", 0), ("m3", "air", 2**31 - 1)))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m2"}, {"itemIdentifier": "m3"}]}
    assert database.execute("select message, amount from orders order by message") == [("m0", 1), ("m1", 2)]
    assert database.execute("select * from stock order by article") == [("air", -2), ("milk", 0), ("tea", 2)]


def test_a_record_that_is_delivered_again_does_nothing(call, database):
    for _ in range(2):
        assert call(batch(("m0", "tea", 1))) == {"batchItemFailures": []}
    assert database.execute("select left_over from stock where article = 'tea'") == [(2,)]
    assert database.execute("select count(*) from orders") == [(1,)]


def test_without_a_database_the_whole_batch_goes_back(start):
    function = start(LAMBDA_POOL_URL="postgresql://app:secret@localhost:1/app", LAMBDA_POOL_TIMEOUT="0.5")
    answer = function.invoke(batch(("m0", "tea", 1), ("m1", "milk", 2)))
    assert answer.error is not None
    assert answer.error["errorType"] in {"ConnectError", "PoolTimeout"}
    assert answer.milliseconds < 20_000


@pytest.mark.parametrize("body", ["{", "{}", "7"])
def test_a_record_that_is_no_order_comes_back(call, body):
    answer = call(
        {"Records": [{"messageId": "m0", "eventSource": "aws:sqs", "body": body}, *batch(("m1", "tea", 1))["Records"]]}
    )
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
