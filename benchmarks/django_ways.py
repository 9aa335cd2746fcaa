"""The compared ways in which Django gets its connection, each as its users write it.

Each runs in a process of its own: Django's settings are for a whole process.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .ways import Event, Handler, Way

OURS = "Django, lambda_pool"
KEPT = "Django, CONN_MAX_AGE"
CHECKED = "Django, CONN_HEALTH_CHECKS"
OWN_POOL = "Django, its own pool"


def work(event: Event) -> Any:
    """The same work as on a driver's connection, if it sends something."""
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        if event["work"] == "one":
            cursor.execute("select 42")
            return cursor.fetchone()[0]
        cursor.execute("select on_hand from stock where item = %s", [1])
        on_hand = cursor.fetchone()[0]
        cursor.execute("insert into orders (item, quantity) values (%s, %s)", [1, 1])
        cursor.execute("update stock set on_hand = on_hand - %s where item = %s", [1, 1])
    return on_hand


def _configure(backend: str, url: str, options: dict[str, Any], **more: Any) -> None:
    import django
    from django.conf import settings

    parts = urlsplit(url)
    entry = {
        "ENGINE": backend,
        "HOST": parts.hostname,
        "PORT": parts.port,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "NAME": parts.path[1:],
        "OPTIONS": options,
    }
    settings.configure(DATABASES={"default": entry | more}, USE_TZ=True)
    django.setup()


def _authority(url: str) -> str:
    return parse_qs(urlsplit(url).query)["sslrootcert"][0]


def _in_a_request(event: Event, context: Any) -> Any:
    """What Django does around each request."""
    from django.core import signals

    signals.request_started.send(sender=None)
    try:
        return work(event)
    finally:
        signals.request_finished.send(sender=None)


def _way(handler: Handler) -> Way:
    from django.db import connections

    return Way(lambda: connections["default"].cursor().close(), handler, connections.close_all)


def _djangos(engine: str, url: str, **more: Any) -> Way:
    """Django's own backend, on the same driver."""
    options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": _authority(url)}
    if engine == "mysql":
        import pymysql

        pymysql.install_as_MySQLdb()
        options = {"ssl": {"ca": _authority(url)}}
    _configure(f"django.db.backends.{engine}", url, options | more.pop("options", {}), **more)
    return _way(_in_a_request)


def kept(engine: str, url: str, *, autocommit: bool) -> Way:
    """A connection that is kept for ever, and never checked."""
    return _djangos(engine, url, CONN_MAX_AGE=None)


def checked(engine: str, url: str, *, autocommit: bool) -> Way:
    """The same with a check in each request."""
    return _djangos(engine, url, CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True)


def own_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """Django's own pool, psycopg's, with its check."""
    return _djangos(engine, url, CONN_HEALTH_CHECKS=True, options={"pool": True})


def lambda_pool(engine: str, url: str, *, autocommit: bool) -> Way:
    """lambda_pool.django's engine and handler."""
    own = {"lambda_pool": {"metrics": "off"}}
    options = {"sslmode": "verify-full", "sslrootcert": _authority(url), **own}
    _configure(f"lambda_pool.django.{engine}", url, options)
    from lambda_pool.django import handler

    return _way(handler(lambda event, context: work(event)))


WAYS: dict[str, Callable[..., Way]] = {OURS: lambda_pool, KEPT: kept, CHECKED: checked, OWN_POOL: own_pool}
OF_ENGINE = {"postgresql": tuple(WAYS), "mysql": (OURS, KEPT, CHECKED)}
