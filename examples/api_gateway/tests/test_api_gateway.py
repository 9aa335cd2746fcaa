"""What the routes answer, and what is then saved."""

import json

import pytest


def request(method, path, body=None, **headers):
    """An event of API Gateway's REST APIs, with the fields that are read."""
    return {
        "httpMethod": method,
        "path": path,
        "resource": path,
        "headers": {"Content-Type": "application/json", **headers},
        "multiValueHeaders": {},
        "queryStringParameters": None,
        "requestContext": {"stage": "prod", "path": path, "httpMethod": method, "requestId": "1"},
        "body": body if body is None or isinstance(body, str) else json.dumps(body),
        "isBase64Encoded": False,
    }


@pytest.fixture
def ask(call):
    """ask(method, path, body): status and decoded body."""

    def send(*arguments, **headers):
        answer = call(request(*arguments, **headers))
        return answer["statusCode"], json.loads(answer["body"])

    return send


def test_an_order_is_saved_and_read(ask, database):
    status, made = ask("POST", "/orders", {"article": "tea", "amount": 2})
    assert status == 201
    assert ask("GET", f"/orders/{made['number']}") == (200, {**made, "article": "tea", "amount": 2})
    assert database.execute("select left_over from stock") == [(1,)]


def test_what_is_refused_is_not_saved(ask, database):
    assert ask("POST", "/orders", {"article": "tea", "amount": 4})[0] == 400
    assert ask("POST", "/orders", {"article": "air", "amount": 1})[0] == 404
    for amount in (-100, 0, 1.5, "2", True, None, 2**31):
        assert (amount, ask("POST", "/orders", {"article": "tea", "amount": amount})[0]) == (amount, 400)
    bodies = [None, "", "{", "[1]", "null", "7", {}, {"article": "tea"}, {"amount": 1}]
    bodies += [{"article": article, "amount": 1} for article in (None, 7, ["tea"], "te\0a", "te\ud800a")]
    for body in bodies:
        assert (body, ask("POST", "/orders", body)[0]) == (body, 400)
    for number in ("0", "abc", "-1", "1.5", "2147483648", "9" * 5000):
        assert (number[:20], ask("GET", f"/orders/{number}")[0]) == (number[:20], 404)
    assert database.execute("select * from stock") == [("tea", 3)]
    assert database.execute("select * from orders") == []


def test_the_same_key_makes_one_order(ask, database):
    order = {"article": "tea", "amount": 2}
    # The header's name is not case-sensitive.
    answers = [ask("POST", "/orders", order, **{name: "0f8fad5b"}) for name in ("Idempotency-Key", "idempotency-key")]
    assert [status for status, _ in answers] == [201, 200]
    assert answers[0][1] == answers[1][1]
    assert database.execute("select left_over from stock") == [(1,)]
    # A refused order was not saved, and may be tried again with the same key.
    for expected in (400, 201):
        assert ask("POST", "/orders", order, **{"Idempotency-Key": "7"})[0] == expected
        database.execute("update stock set left_over = 4")
    assert [ask("POST", "/orders", order)[0] for _ in range(2)] == [201, 201]
    assert database.execute("select count(*) from orders") == [(4,)]
