"""A running invocation, as the decorator notes it, for tests of waits inside one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident

from lambda_pool import invocation


class Context:
    """A Lambda context: how many milliseconds are left, and the request's identifier."""

    def __init__(self, left: Callable[[], object] | None, request_id: str) -> None:
        self.get_remaining_time_in_millis = left
        self.aws_request_id = request_id


@contextmanager
def invoked(
    left: Callable[[], object] | None, *, request_id: str = "", reserve: float = invocation.RESERVE
) -> Iterator[None]:
    """This thread runs an invocation that has `left()` milliseconds; `reserve` seconds of them must not be used."""
    before = invocation.reserve.seconds
    invocation.reserve.seconds = reserve
    invocation.running[get_ident()] = Context(left, request_id)
    try:
        yield
    finally:
        del invocation.running[get_ident()]
        invocation.reserve.seconds = before
