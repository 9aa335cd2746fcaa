"""The database goes away and comes back."""

import json

from lambda_pool.testing import PostgresServer


def test_it_answers_without_its_database(lambda_runtime, folder):
    with PostgresServer(tls=False) as server:
        server.execute((folder / "schema.sql").read_text())
        function = lambda_runtime("app.handler", code_dir=folder, env={"LAMBDA_POOL_URL": server.url()})

        def price(article):
            return function.invoke({"pathParameters": {"article": article}}).payload

        assert json.loads(price("tea")["body"]) == {"price": 4}
        assert price("air")["statusCode"] == 404
        server.stop("fast")
        stale, missing = price("tea"), price("milk")
        assert (stale["statusCode"], stale["body"]) == (200, '{"price": 4}')
        assert "Warning" in stale["headers"]
        assert (missing["statusCode"], missing["headers"]["Retry-After"]) == (503, "5")
        server.start()
        assert json.loads(price("milk")["body"]) == {"price": 2}
