"""A TLS connection whose peer is gone without a closing message: `run` replays on another connection."""

import os
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lambda_pool import Pool
from lambda_pool.testing import FaultyProxy, PostgresServer
from lambda_pool.testing.server import Server

ENDS: dict[str, Callable[[FaultyProxy], None]] = {
    "closed": lambda proxy: proxy.close(),
    "reset": lambda proxy: proxy.reset(),
    "cut in the answer": lambda proxy: proxy.cut(after=1, direction="to_client"),
    "cut in the question": lambda proxy: proxy.cut(after=1, direction="to_server"),
}


@pytest.mark.parametrize("end", ENDS)
def test_run_replays_what_was_cut(server: Server, end: str) -> None:
    tries = []
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        pool = Pool(server.url(port=proxy.port), observers=())

        def work(conn: Any) -> Any:
            tries.append(conn)
            with conn.cursor() as cursor:
                cursor.execute("select 1")
                if len(tries) == 1:
                    ENDS[end](proxy)
                cursor.execute("select 2")
                return cursor.fetchone()[0]

        assert pool.run(work) == 2
        assert len(tries) == 2
        pool.close()


def test_run_replays_what_hangs_up_with_nothing_to_be_read(postgres: PostgresServer) -> None:
    """As the kernel reports a reset in the moment between its two halves: psycopg then has a message of its own."""
    pool = Pool(postgres.url(), observers=())
    tries = []

    def work(conn: Any) -> Any:
        tries.append(conn)
        if len(tries) > 1:
            return conn.execute("select 2").fetchone()[0]
        with socket.socket() as unconnected:  # polls as hung up, and not as readable
            swap = threading.Timer(0.2, os.dup2, (unconnected.fileno(), conn.fileno()))
            swap.start()
            try:
                conn.execute("select pg_sleep(10)")
            finally:
                swap.join()

    assert pool.run(work) == 2
    assert len(tries) == 2
    pool.close()
