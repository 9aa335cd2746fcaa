"""One environment: a process that waits for an event on its socket, handles it, and answers."""

import collections
import json
import os
import re
import signal
import socket
import struct
from collections.abc import Callable
from time import monotonic, sleep
from typing import Any

from .spec import Spec

EVENT = struct.Struct("!ddd")
"""An invocation: seconds of other work while it holds the connection, seconds of the statement, and when it arrived."""

Handler = Callable[[dict[str, Any], Any], object]


class Context:
    """As much of Lambda's context as a pool looks at."""

    aws_request_id = "request-1"

    def __init__(self, seconds: float) -> None:
        self._end = monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(int((self._end - monotonic()) * 1000), 0)


class Counting:
    """An observer: what the pool has done since it was last asked."""

    def __init__(self) -> None:
        self.seen: collections.Counter[str] = collections.Counter()

    def on_event(self, event: Any) -> None:
        name = type(event).__name__
        kind = {"Closed": getattr(event, "reason", ""), "ConnectFailed": getattr(event, "kind", "")}.get(name)
        self.seen[f"{name} {kind}" if kind else name] += 1


class Place:
    """Where the database is."""

    def __init__(self, spec: Spec, port: int) -> None:
        self.spec = spec
        if spec.engine == "postgresql":
            pooled = "&pooled=true" if spec.pooled else ""
            self.url = f"postgresql://app@127.0.0.1:{port}/postgres?sslmode=disable{pooled}"
            self.dsn = f"host=127.0.0.1 port={port} user=app dbname=postgres sslmode=disable connect_timeout=5"
            self.alchemy = f"postgresql+psycopg://app@127.0.0.1:{port}/postgres?sslmode=disable"
        else:
            self.url = f"mysql://app:app@127.0.0.1:{port}/app?sslmode=disable"
            self.alchemy = f"mysql+pymysql://app:app@127.0.0.1:{port}/app"
        self.port = port

    def connect(self) -> Any:
        """A connection of the driver alone."""
        if self.spec.engine == "postgresql":
            import psycopg

            return psycopg.connect(self.dsn, prepare_threshold=None if self.spec.pooled else 5)
        import pymysql

        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="app",
            password="app",
            database="app",
            connect_timeout=5,
            ssl_disabled=True,
        )


def work(conn: Any, event: dict[str, Any], engine: str) -> None:
    """What each handler does with its connection."""
    event["checked_out"] = monotonic()
    sleep(event["elsewhere"])
    with conn.cursor() as cursor:
        cursor.execute("select pg_sleep(%s)" if engine == "postgresql" else "select sleep(%s)", (event["statement"],))
        cursor.fetchall()


def handler_of(place: Place, counting: Counting) -> Handler:
    """The function, in one of the ways."""
    return WAYS[place.spec.way](place, counting)


def _lambda_pool(place: Place, counting: Counting) -> Handler:
    from lambda_pool import Pool

    _sabotage(place.spec.sabotage)
    options = dict(place.spec.options) | ({"keep_below": 1} if place.spec.sabotage == "rule" else {})
    pool = Pool(place.url, name="fleet", observers=[counting], **options)

    @pool.handler
    def handler(event: Any, context: Any, conn: Any) -> None:
        work(conn, event, place.spec.engine)

    return handler


def _sabotage(what: str) -> None:
    from lambda_pool import connector

    if what == "backoff":
        vars(connector)["crowded_backoff"] = lambda left: 0.0
    elif what == "timer":
        vars(connector)["session_timer"] = lambda session_idle, longest: session_idle


def _each_time(place: Place, counting: Counting) -> Handler:
    def handler(event: Any, context: Any) -> None:
        conn = place.connect()
        try:
            work(conn, event, place.spec.engine)
            conn.commit()
        finally:
            conn.close()

    return handler


def _bare_global(place: Place, counting: Counting) -> Handler:
    kept: list[Any] = []

    def handler(event: Any, context: Any) -> None:
        if kept and (kept[0].closed if place.spec.engine == "postgresql" else not kept[0].open):
            kept.clear()
        if not kept:
            kept.append(place.connect())
        work(kept[0], event, place.spec.engine)
        kept[0].commit()

    return handler


def _alchemy(place: Place, counting: Counting) -> Handler:
    from sqlalchemy import create_engine

    engine = create_engine(place.alchemy, pool_pre_ping=True, pool_size=1, max_overflow=0)

    def handler(event: Any, context: Any) -> None:
        conn = engine.raw_connection()
        try:
            work(conn.dbapi_connection, event, place.spec.engine)
            conn.commit()
        finally:
            conn.close()

    return handler


def _psycopg_pool(place: Place, counting: Counting) -> Handler:
    from psycopg_pool import ConnectionPool

    made: list[Any] = []

    def handler(event: Any, context: Any) -> None:
        if not made:  # its threads do not survive the fork that started this process
            made.append(ConnectionPool(place.dsn, min_size=1, max_size=1, timeout=5, open=True))
        with made[0].connection() as conn:
            work(conn, event, place.spec.engine)

    return handler


WAYS: dict[str, Callable[[Place, Counting], Handler]] = {
    "lambda_pool": _lambda_pool,
    "connect each time": _each_time,
    "bare global": _bare_global,
    "SQLAlchemy, pre-ping": _alchemy,
    "psycopg_pool": _psycopg_pool,
}

_NUMBERS = re.compile(r'port \d+|\d+\.\d+ s|\d+ attempts?|:\d+|"\d+')
_KINDS = (
    ("too many clients", "too many"),
    ("remaining connection slots", "too many"),
    ("Too many connections", "too many"),
    ("no more connections allowed", "PgBouncer has no room"),
    ("idle-session timeout", "57P05"),
    ("4031", "4031"),
    ("administrator command", "57P01"),
    ("Connection refused", "refused"),
    ("starting up", "starting up"),
    ("shutting down", "shutting down"),
    ("closed the connection", "lost"),
    ("Lost connection", "lost"),
    ("gone away", "lost"),
    ("timeout expired", "connect time-out"),
)


def kind_of(error: BaseException) -> str:
    """An error in a few words, the same words for errors of one kind."""
    text = " ".join(str(error).split())
    found = next((kind for part, kind in _KINDS if part in text), _NUMBERS.sub("_", text)[:120])
    return f"{type(error).__name__}: {found}"


def live(place: Place, sock: socket.socket) -> None:
    """Handle one event after another, until the router is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    counting = Counting()
    handler = handler_of(place, counting)
    while True:
        data = sock.recv(EVENT.size)
        if len(data) != EVENT.size:
            os._exit(0)
        elsewhere, statement, _ = EVENT.unpack(data)
        event: dict[str, Any] = {"elsewhere": elsewhere, "statement": statement}
        began, error = monotonic(), ""
        try:
            handler(event, Context(place.spec.time_out))
        except Exception as problem:
            error = kind_of(problem)
        checkout = event.get("checked_out", monotonic()) - began
        seen, counting.seen = counting.seen, collections.Counter()
        sock.send(json.dumps([error, checkout, seen]).encode())
