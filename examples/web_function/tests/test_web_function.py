"""The application on uvicorn with many requests at once, and on the genuine runtime."""

import http.client
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lambda_pool.testing.ports import free_ports


@pytest.fixture
def ask(database, folder):
    """ask(method, path): status and answer of the application on uvicorn."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "app:application", "--port", str(port)]
    env = {**os.environ, "LAMBDA_POOL_URL": database.url, "PYTHONDONTWRITEBYTECODE": "1"}
    server = subprocess.Popen(command, cwd=folder, env=env)

    def send(method, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    until = time.monotonic() + 60
    while True:
        try:
            send("GET", "/orders/0")
            break
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
    yield send
    server.terminate()
    server.wait(30)


def test_many_orders_at_once(ask, database):
    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(lambda number: ask("POST", f"/orders/tea?amount={number}"), range(1, 65)))
    assert {status for status, _ in answers} == {201}
    assert sorted(answer["number"] for _, answer in answers) == [*range(1, 65)]
    assert database.execute("select count(*), sum(amount) from orders") == [(64, 65 * 32)]


def test_an_order_that_is_refused_is_not_saved(ask, database):
    assert ask("POST", "/orders/tea?amount=101")[0] == 409
    assert ask("GET", "/orders/1")[0] == 404
    assert database.execute("select * from orders") == []


def test_after_a_failover(ask, database):
    assert ask("POST", "/orders/tea") == (201, {"number": 1})
    database.end_sessions()
    assert ask("GET", "/orders/1") == (200, {"number": 1, "article": "tea", "amount": 1})


def test_the_same_application_behind_mangum(call, folder):
    events = sorted((folder / "events").iterdir())
    assert [call(json.loads(event.read_text()))["statusCode"] for event in events] == [201, 200]
