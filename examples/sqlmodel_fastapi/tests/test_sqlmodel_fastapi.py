"""FastAPI and SQLModel on the genuine runtime."""

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
    made = call(http("POST", "/orders", {"article": "tea", "amount": 2}))
    assert made["statusCode"] == 201
    number = json.loads(made["body"])["number"]
    call.runtime.freeze()
    database.end_sessions()
    call.runtime.thaw()
    assert json.loads(call(http("GET", f"/orders/{number}"))["body"]) == {
        "number": number,
        "article": "tea",
        "amount": 2,
    }
    assert call(http("GET", "/orders/0"))["statusCode"] == 404
    assert call(http("POST", "/orders", {"article": "tea", "amount": 500}))["statusCode"] == 409
    # The database's own check refuses it.
    assert call(http("POST", "/orders", {"article": "tea", "amount": -1}))["statusCode"] == 500
    assert database.execute("select article from orders") == [("tea",)]
