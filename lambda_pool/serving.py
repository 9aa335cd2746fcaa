"""What the middlewares share: how a request begins and ends, and its answer when there is no database."""

import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Any

from . import config as configuration
from . import lifecycle, reclaim
from .errors import CommitUncertain, ConfigError, LambdaPoolError
from .invocation import RESERVE, remaining, reserve, running
from .lifecycle import shutdown
from .pool import ConnectionPool
from .request import UNAVAILABLE, Request, begin, current_request

log: logging.Logger = logging.getLogger("lambda_pool")

NO_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
_ANSWERED = (*UNAVAILABLE, CommitUncertain)
_DEEPEST = 10  # how many causes of an error are looked at
_RETRY_AFTER = "5"  # seconds that a client is asked to wait: about as long as a failover's second half


class Requests:
    """What one middleware does with each request."""

    def __init__(self, pool: Any, request_timeout: float | None, on_unavailable: Callable[..., Any] | None) -> None:
        """Checks a middleware's arguments. Raises ConfigError."""
        # Checked by an attribute that an AsyncPool has, too.
        if pool is not None and not isinstance(getattr(pool, "_core", None), ConnectionPool):
            raise ConfigError(
                f"pool is not valid: it must be a lambda_pool.Pool, not {type(pool).__name__}; it may be left out, as "
                "in Middleware(app): one middleware serves all pools of the process"
            )
        if on_unavailable is not None and not callable(on_unavailable):
            raise ConfigError(f"on_unavailable={on_unavailable!r} is not valid: it must be callable")
        said = "request_timeout"
        if request_timeout is None:
            self._timeout, said = configuration.web_timeout(), "AWS_LAMBDA_FUNCTION_TIMEOUT"
        else:
            self._timeout = configuration.seconds(said, request_timeout)
        if self._timeout is not None:
            _check_timeout(said, self._timeout, 0.0 if pool is None else pool.config.cancel_before_deadline)
        shutdown.in_server()

    def begin(self, *, lasting: bool = False) -> "Served | None":
        """Begin a request, with a deadline unless it is `lasting`. None inside of another middleware's request."""
        if current_request() is not None:
            return None
        left = remaining() if running else None
        ends = [seconds for seconds in (self._timeout, None if left is None else left + reserve.seconds) if seconds]
        return Served(begin(monotonic() + min(ends) if ends and not lasting else None, lasting=lasting))


def _check_timeout(said: str, seconds: float, cancel_before: float) -> None:
    """Raises ConfigError if requests that may last so long would have no time to wait for anything."""
    if seconds <= max(cancel_before, RESERVE):
        kept = f"cancel_before_deadline ({cancel_before:g})" if cancel_before > RESERVE else f"{RESERVE:g} seconds"
        raise ConfigError(
            f"{said}={seconds:g} is not valid: it must be more than {kept}, which the pool keeps back for the end of a "
            "request"
        )


class Served:
    """One request that a middleware has begun."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._counted = not running  # otherwise it is a part of an invocation, which is counted
        self._disarm = lifecycle.arm_request(request)

    def holds_transaction(self) -> bool:
        """True while the request has an open transaction: its answer may still turn out to be wrong."""
        return any(reclaim.holds_transaction(pool, self.request) for pool in lifecycle.pools())

    def holds_any(self) -> bool:
        """True while it holds a connection."""
        return any(reclaim.lent_for(pool, self.request) for pool in lifecycle.pools())

    def end(self, error: BaseException | None, *, cut: bool = False) -> BaseException | None:
        """Clean up after the request, which ended with `error`. Out: the error to answer it with.

        If its answer was `cut`, because its client hung up, work that is not saved is no error: nobody was told that
        it is.
        """
        counted, self._counted = self._counted, False  # once, even if an alarm breaks this off and it is called again
        try:
            if self._disarm is not None:
                self._disarm()
        finally:
            problem = lifecycle.end_request(self.request, failed=cut or error is not None, counted=counted)
        return error or (None if cut else problem)

    def ask(self, pool: ConnectionPool) -> None:
        """Let a pool ask how crowded its server is, before this request's deadline: its answer waits for that."""
        deadline = self.request.deadline
        lifecycle.ask(pool, None if deadline is None else deadline - reserve.seconds)

    def unavailable(self, error: BaseException | None, status: int) -> LambdaPoolError | None:
        """The pool's error to answer with 503, in place of this `error` or of an answer with this `status`."""
        noted = self.request.failure
        seen: BaseException | None = error
        for _ in range(_DEEPEST):
            if isinstance(seen, BaseExceptionGroup) and _is_of_one_kind(seen):
                # Of several tasks' errors, take the one after which nobody may simply try again.
                seen = max(seen.exceptions, key=lambda each: isinstance(each, CommitUncertain))
            elif seen is None or isinstance(seen, _ANSWERED):
                break
            else:
                # If the pool's error is no longer noted, one raised while it was handled has a reason of its own.
                seen = seen.__cause__ or (seen.__context__ if noted else None)
        if isinstance(seen, _ANSWERED):
            return seen
        return noted if error is None and status == 500 else None


def _is_of_one_kind(group: BaseExceptionGroup[BaseException]) -> bool:
    """True for a group of one error, or of those that are answered with 503 alone."""
    return len(group.exceptions) == 1 or all(isinstance(each, _ANSWERED) for each in group.exceptions)


def refusal(error: LambdaPoolError) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of the answer 503. The text of the error is for the log, not for a client."""
    if isinstance(error, CommitUncertain):
        text = "The database did not confirm that the change was saved: look before you send it again."
        headers = []
    else:
        text = "The database is not available: try again later."
        headers = [("retry-after", _RETRY_AFTER)]
    body = json.dumps({"detail": text}).encode()
    return [*headers, ("content-type", "application/json"), ("content-length", str(len(body)))], body


def check_own_answer(answer: Any, kind: str) -> Any:
    """What `on_unavailable` has returned. Raises ConfigError if that is not an application of this kind."""
    if not callable(answer):
        raise ConfigError(
            f"on_unavailable returned an object of type {type(answer).__name__}: it must return {kind} application"
        )
    return answer


def log_refused(method: str, path: str, error: LambdaPoolError) -> None:
    """Say in the log why a request is answered with 503."""
    log.error("%s %s is answered with 503: %s: %s", method, path, type(error).__name__, error)
