"""Threads that share connections: how many turns they get in total, and how unevenly they wait."""

import statistics
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from functools import partial
from typing import Any

from lambda_pool import Pool
from lambda_pool.testing import PostgresServer

from .rounds import figure, ratio, shuffled

NAME = "contention"
SECONDS = 0.3
ROUNDS = 3
SHAPES = ((1, 1), (4, 1), (16, 1), (64, 1), (4, 4), (16, 4), (64, 4), (16, 16), (64, 16))
"""Threads, connections."""
OURS = "lambda_pool"
TIMEOUT = 30.0

Borrow = Callable[[], AbstractContextManager[Any]]


def ours(url: str, size: int) -> tuple[Borrow, Callable[[], object]]:
    """lambda_pool: validates each time."""
    pool = Pool(url, autocommit=True, max_size=size, min_size=size, timeout=TIMEOUT)
    pool.warm()
    return pool.connection, pool.close


def psycopg_pool(url: str, size: int) -> tuple[Borrow, Callable[[], object]]:
    """psycopg_pool without a check."""
    from psycopg_pool import ConnectionPool

    pool = ConnectionPool(
        url, min_size=size, max_size=size, kwargs={"autocommit": True}, open=True, timeout=TIMEOUT, max_waiting=0
    )
    pool.wait()
    return pool.connection, pool.close


def sqlalchemy(url: str, size: int) -> tuple[Borrow, Callable[[], object]]:
    """SQLAlchemy's QueuePool without pre-ping."""
    import psycopg
    from sqlalchemy import create_engine

    engine = create_engine(
        "postgresql+psycopg://",
        creator=partial(psycopg.connect, url, autocommit=True),
        pool_size=size,
        max_overflow=0,
        pool_timeout=TIMEOUT,
    )
    held = [engine.raw_connection() for _ in range(size)]
    for each in held:
        each.close()
    return lambda: closing(engine.raw_connection()), engine.dispose


def dbutils(url: str, size: int) -> tuple[Borrow, Callable[[], object]]:
    """DBUtils' PooledDB."""
    import psycopg
    from dbutils.pooled_db import PooledDB  # type: ignore[import-not-found]

    pool = PooledDB(
        psycopg, mincached=size, maxcached=size, maxconnections=size, blocking=True, conninfo=url, autocommit=True
    )
    return lambda: closing(pool.connection()), pool.close


POOLS = {OURS: ours, "psycopg_pool": psycopg_pool, "SQLAlchemy QueuePool": sqlalchemy, "DBUtils": dbutils}


def crowd(borrow: Borrow, threads: int) -> tuple[float, float, float]:
    """Turns a second, and the median and the longest wait for a connection in microseconds.

    A turn is: borrow a connection, SELECT, give it back.
    """
    waits: list[list[float]] = [[] for _ in range(threads)]
    start = threading.Barrier(threads + 1)
    stop = threading.Event()
    problems: list[BaseException] = []

    def loop(mine: list[float]) -> None:
        start.wait()
        try:
            while not stop.is_set():
                began = time.perf_counter()
                with borrow() as conn:
                    mine.append((time.perf_counter() - began) * 1e6)
                    cursor = conn.cursor()
                    cursor.execute("select 42")
                    cursor.fetchone()
        except BaseException as error:
            problems.append(error)

    crew = [threading.Thread(target=loop, args=(mine,)) for mine in waits]
    for each in crew:
        each.start()
    start.wait()
    began = time.perf_counter()
    time.sleep(SECONDS)
    stop.set()
    for each in crew:
        each.join()
    took = time.perf_counter() - began
    if problems:
        raise problems[0]
    every = [wait for mine in waits for wait in mine]
    return len(every) / took, statistics.median(every), max(every)


def measure() -> dict[str, Any]:
    """All combinations of threads and connections; the pools run in turns."""
    found: dict[str, Any] = {"rounds": ROUNDS, "seconds": SECONDS, "shapes": []}
    with PostgresServer(max_connections=100) as server:
        for threads, connections in SHAPES:
            opened = {name: make(server.url(), connections) for name, make in POOLS.items()}
            rows: dict[str, list[tuple[float, float, float]]] = {name: [] for name in POOLS}
            for _ in range(ROUNDS):
                for name in shuffled(list(POOLS)):
                    rows[name].append(crowd(opened[name][0], threads))
            for _, close in opened.values():
                close()
            mine = [row[0] for row in rows[OURS]]
            found["shapes"].append(
                {
                    "threads": threads,
                    "connections": connections,
                    "pools": {
                        name: {
                            "turns_per_second": figure([row[0] for row in column]),
                            "throughput_over_ours": ratio([row[0] for row in column], mine),
                            "median_wait_us": figure([row[1] for row in column]),
                            "longest_wait_us": figure([row[2] for row in column]),
                            "longest_over_median": figure([row[2] / row[1] for row in column]),
                        }
                        for name, column in rows.items()
                    },
                }
            )
    return found
