"""Django behind a middleware, on a server as Web Functions run one: nothing is lost, nothing stays in use."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Server, saved
from .running import Running

APPLICATION = """
import os
from urllib.parse import urlsplit
from django.conf import settings
URL = urlsplit(os.environ["URL"])
ENTRY = {
    "ENGINE": "lambda_pool.django." + ("mysql" if URL.scheme == "mysql" else "postgresql"),
    "HOST": URL.hostname,
    "PORT": URL.port,
    "USER": URL.username,
    "PASSWORD": URL.password or "",
    "NAME": URL.path[1:],
    "OPTIONS": {"sslmode": "disable", "lambda_pool": {"metrics": "off", "max_size": 2, "timeout": 1, "keep_below": 0}},
}
from lambda_pool.testing import FaultyProxy
PROXY = FaultyProxy("127.0.0.1", URL.port)
settings.configure(
    DATABASES={
        "default": ENTRY,
        "away": {**ENTRY, "HOST": "127.0.0.1", "PORT": 1},
        "lossy": {**ENTRY, "HOST": "127.0.0.1", "PORT": PROXY.port},
    },
    SECRET_KEY="of the tests",
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
)
import django
django.setup()
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import connections, transaction
from django.http import JsonResponse
from django.urls import path
from lambda_pool import asgi, wsgi

def save(request, number):
    with connections["default"].cursor() as cursor:
        cursor.execute("insert into served values (%s)", [number])
    return JsonResponse({"number": number})

def fail(request, number):
    with transaction.atomic():
        save(request, number)
        raise LookupError("half way")

def leave(request, number):
    transaction.set_autocommit(False)
    save(request, number)
    raise LookupError("its transaction is left open")

def away(request):
    connections["away"].ensure_connection()

def lose(request, number):
    with transaction.atomic("lossy"):
        with connections["lossy"].cursor() as cursor:
            cursor.execute("insert into served values (%s)", [number])
        PROXY.cut(after=0, direction="to_client")
    return JsonResponse({"number": number})

def stats(request):
    found = connections["default"].home().pool.stats()
    return JsonResponse([found.in_use, found.idle, found.leaked], safe=False)

urlpatterns = [
    path("stats", stats),
    path("save/<int:number>", save),
    path("fail/<int:number>", fail),
    path("leave/<int:number>", leave),
    path("away", away),
    path("lose/<int:number>", lose),
]
asgi_app = asgi.Middleware(get_asgi_application(), request_timeout=5)
wsgi_app = wsgi.Middleware(get_wsgi_application(), request_timeout=5)
"""


@pytest.fixture(params=["uvicorn", "gunicorn"])
def running(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Running]:
    made = Running(request.param, APPLICATION, server.url(), tmp_path)
    yield made
    made.stop()


@pytest.mark.sampled(1, "a server's process each")
def test_django_on_a_server(running: Running, server: Server) -> None:
    for number in range(1, 6):
        assert running.ask("GET", f"/save/{number}") == (200, json.dumps({"number": number})), running.log.read_text()
        assert running.ask("GET", f"/fail/{number + 10}")[0] == 500
        assert running.ask("GET", f"/leave/{number + 20}")[0] == 500
    assert saved(server) == [1, 2, 3, 4, 5]
    status, text = running.ask("GET", "/away")
    assert (status, json.loads(text)) == (503, {"detail": "The database is not available: try again later."})
    status, text = running.ask("GET", "/lose/30")
    assert (status, json.loads(text)["detail"][:43]) == (503, "The database did not confirm that the chang")
    assert saved(server) in ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 30])
    # What was idle when a request ended is closed, as keep_below=0 wants it.
    assert running.idle() == [0, 0, 0]
