"""Routers and adapters: what a route that answers with an error does to the transaction, and ASGI applications."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from aws_lambda_powertools.event_handler import APIGatewayRestResolver
from aws_lambda_powertools.event_handler.exceptions import BadRequestError
from mangum import Mangum
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import lambda_pool
from lambda_pool import invocation
from lambda_pool.events import InvocationEnded
from tests.support.context import LambdaContext
from tests.support.recorder import Recorder

from .conftest import Server, kept


def request(path: str) -> dict[str, Any]:
    """An event of API Gateway's REST APIs."""
    return {
        "resource": path,
        "path": path,
        "httpMethod": "POST",
        "headers": {"Content-Type": "application/json"},
        "multiValueHeaders": {},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "requestContext": {"stage": "prod", "path": path, "httpMethod": "POST", "requestId": "1"},
        "body": "{}",
        "isBase64Encoded": False,
    }


# --- Powertools' event handler ----------------------------------------------------------------------------------------


def test_an_error_that_a_router_answers_commits_the_handlers_transaction(
    pool: lambda_pool.Pool, server: Server
) -> None:
    app = APIGatewayRestResolver()

    @app.post("/refused")
    def refused() -> Any:
        app.context["conn"].cursor().execute("insert into kept values (1)")
        raise BadRequestError("no")

    @pool.handler
    def handler(event: Any, context: Any, conn: Any) -> Any:
        app.append_context(conn=conn)
        return app.resolve(event, context)

    assert handler(request("/refused"), LambdaContext())["statusCode"] == 400
    assert kept(server) == [1]


def test_a_block_in_the_route_is_rolled_back_by_what_it_raises(pool: lambda_pool.Pool, server: Server) -> None:
    app = APIGatewayRestResolver()

    @app.post("/refused")
    def refused() -> Any:
        with pool.connection() as conn:
            conn.cursor().execute("insert into kept values (1)")
            raise BadRequestError("no")

    @app.post("/saved")
    def saved() -> Any:
        with pool.connection() as conn:
            conn.cursor().execute("insert into kept values (2)")
        return {}

    @pool.handler
    def handler(event: Any, context: Any) -> Any:
        return app.resolve(event, context)

    assert handler(request("/refused"), LambdaContext())["statusCode"] == 400
    assert handler(request("/saved"), LambdaContext())["statusCode"] == 200
    assert kept(server) == [2]


def test_a_router_itself_is_a_handler(pool: lambda_pool.Pool, server: Server) -> None:
    app = APIGatewayRestResolver()

    @app.post("/saved")
    def saved() -> Any:
        with pool.connection() as conn:
            conn.cursor().execute("insert into kept values (2)")
        return {"left": invocation.remaining()}

    answer = pool.handler(app)(request("/saved"), LambdaContext(1100))
    assert json.loads(answer["body"]) == {"left": pytest.approx(1.0)}
    assert kept(server) == [2]


# --- ASGI -------------------------------------------------------------------------------------------------------------


def application(pool: lambda_pool.Pool, leaks: list[Any]) -> Starlette:
    def save(request: Request) -> JSONResponse:  # a plain function: Starlette calls it in a thread
        with pool.connection() as conn:
            conn.cursor().execute("insert into kept values (1)")
        return JSONResponse({"left": invocation.remaining()})

    def refuse(request: Request) -> JSONResponse:
        with pool.connection() as conn:
            conn.cursor().execute("insert into kept values (2)")
            raise HTTPException(409)

    async def save_on_the_loop(request: Request) -> JSONResponse:
        with pool.connection() as conn:
            conn.cursor().execute("insert into kept values (3)")
        return JSONResponse({"left": invocation.remaining()})

    def leak(request: Request) -> JSONResponse:
        leaks.append(pool.connection())
        leaks[-1].__enter__().cursor().execute("insert into kept values (4)")
        return JSONResponse({})

    routes = {"/save": save, "/refuse": refuse, "/save-on-the-loop": save_on_the_loop, "/leak": leak}
    return Starlette(routes=[Route(path, route, methods=["POST"]) for path, route in routes.items()])


@pytest.fixture
def event_loop() -> Iterator[None]:
    """The loop that Mangum otherwise makes and leaves."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.usefixtures("event_loop")
def test_an_asgi_application_has_the_deadline_the_clean_up_and_the_metrics(server: Server) -> None:
    seen, leaks = Recorder(), list[Any]()
    pool = lambda_pool.Pool(server.url(), max_size=2, observers=[seen])
    handler: Any = pool.handler(Mangum(application(pool, leaks), lifespan="off"))
    for path, status in (("/save", 200), ("/refuse", 409), ("/save-on-the-loop", 200)):
        answer = handler(request(path), LambdaContext(1100))
        assert answer["statusCode"] == status
        if status == 200:
            assert json.loads(answer["body"]) == {"left": pytest.approx(1.0)}
    assert kept(server) == [1, 3]
    assert [event.failed for event in seen.of(InvocationEnded)] == [False] * 3
    with pytest.raises(lambda_pool.NotCommitted, match="still open"):
        handler(request("/leak"), LambdaContext())
    assert (pool.stats().leaked, pool.stats().in_use) == (1, 0)
    assert kept(server) == [1, 3]
    assert seen.of(InvocationEnded)[-1].request_id == "request-1"
    pool.close()
