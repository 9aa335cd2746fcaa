"""Starlette on the genuine runtime."""

import json


def http(method, path, body=None):
    """An event of API Gateway's HTTP APIs, with the fields that are read."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "localhost", "content-type": "application/json"},
        "requestContext": {"http": {"method": method, "path": path, "sourceIp": "127.0.0.1"}},
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


def test_an_order_is_saved_read_and_refused(call, database):
    made = call(http("POST", "/orders/of/tea"))
    assert made["statusCode"] == 201
    number = json.loads(made["body"])["number"]
    assert json.loads(call(http("GET", f"/orders/{number}"))["body"]) == {
        "number": number,
        "article": "tea",
        "amount": 1,
    }
    assert call(http("POST", "/orders/of/tea"))["statusCode"] == 409
    assert call(http("GET", "/orders/0"))["statusCode"] == 404
    # Nothing of the refused order is saved.
    assert database.execute("select article from orders") == [("tea",)]
    assert database.execute("select left_over from stock where article = 'tea'") == [(0,)]


def test_after_a_failover(call, database):
    number = json.loads(call(http("POST", "/orders/of/tea"))["body"])["number"]
    call.runtime.freeze()
    database.end_sessions()
    call.runtime.thaw()
    assert call(http("GET", f"/orders/{number}"))["statusCode"] == 200
