"""The project is migrated, and serves requests, on both engines."""

import json

import pytest


def http(method, path, body=None, **headers):
    """An event of API Gateway's HTTP APIs, with the fields that are read."""
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "localhost", "content-type": "application/json", **headers},
        "requestContext": {"http": {"method": method, "path": path, "sourceIp": "127.0.0.1"}},
        "body": None if body is None else json.dumps(body),
        "isBase64Encoded": False,
    }


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_orders(lambda_runtime, folder, engine, request):
    server = request.getfixturevalue("postgres_server" if engine == "postgresql" else "mysql_server")
    server.execute("create database shop")
    env = {"LAMBDA_POOL_URL": server.url(database="shop"), "SHOP_ENGINE": f"lambda_pool.django.{engine}"}
    migrate = lambda_runtime("app.migrate", code_dir=folder, env={**env, "PYTHONDONTWRITEBYTECODE": "1"})
    assert migrate.invoke({}).payload == "migrated"
    migrate.shutdown()
    function = lambda_runtime("app.handler", code_dir=folder, env={**env, "PYTHONDONTWRITEBYTECODE": "1"})

    def ask(*arguments, **headers):
        answer = function.invoke(http(*arguments, **headers)).payload
        return answer["statusCode"], answer["body"]

    order = {"article": "tea", "amount": 2}
    status, made = ask("POST", "/orders", order, **{"idempotency-key": "one"})
    assert status == 201
    assert ask("POST", "/orders", order, **{"idempotency-key": "one"})[1] == made
    number = json.loads(made)["number"]
    assert json.loads(ask("GET", f"/orders/{number}")[1]) == {"number": number, **order}
    # Two of three are gone, and the refused order took nothing.
    assert ask("POST", "/orders", order)[0] == 400
    assert ask("POST", "/orders", {"article": "tea", "amount": -1})[0] == 400
    assert ask("GET", "/orders/0")[0] == 404
    assert ask("POST", "/orders", {"article": "tea", "amount": 1})[0] == 201
    function.shutdown()
    server.execute("drop database shop")
