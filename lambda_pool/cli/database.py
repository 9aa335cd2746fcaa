"""Which database a command talks to: a URL on its command line, or what the environment describes under a prefix."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from lambda_pool import config as configuration
from lambda_pool.api import Pool
from lambda_pool.secret import SecretMapping


def add_database(parser: argparse._ActionsContainer, text: str) -> None:
    """The URL as `args.url`, alone or behind `--url`, and `args.prefix`."""
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

    In: the URL that was typed, and in `given` what was typed beside it (`auth`, `secret_id`, `rds_proxy`,
    `aurora_cluster`): then only options are read from the environment. With None all is read from there. `name` and
    `options` are the command's own, and win.
    """
    environment = configuration.read_environment(prefix)
    if url is not None:
        typed = configuration.settings({"url": url, **(given or {})}, _flag)
        environment = typed.replace(options=environment.options)
    together = SecretMapping({**environment.options, **(options or {})})
    return Pool._of_environment(environment.replace(name=name or environment.name, options=together), prefix)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


class _Url(argparse.Action):
    """Two of them are a mistake, of which neither is shown: they may hold passwords."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if values is None:  # the place of its own is empty
            return
        if not values:
            raise argparse.ArgumentError(self, "the URL is empty: is the variable set that it comes from?")
        if getattr(namespace, self.dest, None) is not None:
            raise argparse.ArgumentError(self, "a URL was given already: give only one")
        setattr(namespace, self.dest, values)
