"""Servers that several tests share: whatever a test does to one ends with the test, also if the test fails."""

from collections.abc import Iterator
from contextlib import contextmanager

from lambda_pool.testing.server import Server


def make_whole(server: Server) -> None:
    """Let the server run again, if a test left it paused or stopped."""
    server.resume()
    if server.pid is None:
        server.start()


@contextmanager
def changed(server: Server, there: str, back: str) -> Iterator[None]:
    """The statement `there` holds in this block; `back` takes it back."""
    server.execute(there)
    try:
        yield
    finally:
        server.execute(back)
