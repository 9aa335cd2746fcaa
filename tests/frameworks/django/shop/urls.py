"""Views of each kind."""

from typing import Any

from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path

from tests.frameworks.django.shop.models import Order


def backend() -> int:
    """The server's number for this thread's session."""
    connection.ensure_connection()
    conn = connection.connection
    return int(conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id())


def place(request: HttpRequest, name: str) -> Any:
    """A plain view that writes, and fails afterwards if it is told to."""
    Order.objects.create(name=name)
    answer = JsonResponse({"count": Order.objects.count(), "backend": backend()})
    if "fail" in request.GET:
        raise LookupError("half way")
    return answer


async def place_async(request: HttpRequest, name: str) -> Any:
    """The same, with the asynchronous ORM."""
    from asgiref.sync import sync_to_async

    await Order.objects.acreate(name=name)
    return JsonResponse({"count": await Order.objects.acount(), "backend": await sync_to_async(backend)()})


urlpatterns = [path("place/<name>", place), path("async/<name>", place_async)]
