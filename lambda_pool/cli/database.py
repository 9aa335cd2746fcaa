"""Which database a command talks to, by a URL or by the variables under a prefix, and one look at it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from lambda_pool import config as configuration
from lambda_pool.api import Pool
from lambda_pool.errors import DeadlineExceeded, LambdaPoolError
from lambda_pool.secret import SecretMapping

T = TypeVar("T")

_PATIENCE = 8.0
"""Seconds for one look. A server that hangs still acknowledges each packet, and no driver would ever give up."""
LOOKING = {"metrics": "off", "cancel_before_deadline": "1"}
"""Options of a pool that is for `look`."""


def add_database(parser: argparse._ActionsContainer, text: str) -> None:
    """The URL as `args.url`, alone or after `--url`, and `args.prefix`."""
    parser.add_argument("url", nargs="?", action=_Url, metavar="URL", help=text)
    parser.add_argument("--url", action=_Url, help="the same; other users of this machine can read a password in it")
    parser.add_argument(
        "--prefix",
        default=configuration.DEFAULT_PREFIX,
        help="how the environment variables begin (default: LAMBDA_POOL_)",
    )


def pool_of(
    url: str | None,
    prefix: str,
    given: Mapping[str, str] | None = None,
    *,
    name: str | None = None,
    options: Mapping[str, str] | None = None,
) -> Pool[Any]:
    """The pool that a command uses. Raises ConfigError.

    In: the URL that was typed, and in `given` what was typed with it (`auth`, `secret_id`, `rds_proxy`,
    `aurora_cluster`). Then only options are read from the environment. If the URL is None, everything is read from
    there. `name` and `options` are the command's own, and win.
    """
    environment = configuration.read_environment(prefix)
    if url is not None:
        typed = configuration.settings({"url": url, **(given or {})}, flag)
        environment = typed.replace(options=environment.options)
    together = SecretMapping({**environment.options, **(options or {})})
    return Pool._of_environment(environment.replace(name=name or environment.name, options=together), prefix)


def look(pool: Pool[Any], read: Callable[[Any], T]) -> Callable[[], T]:
    """A function that gives what `read(conn)` reads from the server, within seconds.

    Raises as a checkout does, and LambdaPoolError for a server that falls silent or refuses the statements.
    """

    def ask(event: object, context: object, conn: Any) -> T:
        try:
            return read(conn)
        except DeadlineExceeded as error:
            raise LambdaPoolError("the server did not answer in time") from error
        except Exception as error:
            raise LambdaPoolError(f"the server could not be queried: {error}") from error

    asked: Callable[[None, _Look], T] = pool.handler(ask)
    return lambda: asked(None, _Look())


def as_text(row: Sequence[Any]) -> tuple[Any, ...]:
    """The row, with its bytes decoded: psycopg gives bytes where the database's encoding is SQL_ASCII."""
    return tuple(value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in row)


def rows(conn: Any, sql: str) -> list[tuple[Any, ...]]:
    """What a statement gives, as text."""
    with conn.cursor() as cursor:
        cursor.execute(sql)
        return [as_text(row) for row in cursor.fetchall()]


class _Look:
    """The context of one look; it ends a statement without an answer, as Lambda's context does in a function."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _PATIENCE

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until nobody waits any more."""
        return int(1000 * (self._until - time.monotonic()))


def flag(name: str) -> str:
    """How a setting is typed on the command line."""
    return f"--{name.replace('_', '-')}"


class _Url(argparse.Action):
    """Two URLs are a mistake, and neither is shown: they may hold passwords."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values is None:  # no URL was given without `--url`
            return
        if not values:
            raise argparse.ArgumentError(self, "the URL is empty: set the variable that it comes from")
        if getattr(namespace, self.dest, None) is not None:
            raise argparse.ArgumentError(self, "a URL was given already: give only one")
        setattr(namespace, self.dest, values)
