"""The command `lambda-pool`: a frame that loads the subcommand that was asked for, and no other."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from io import StringIO, TextIOWrapper
from typing import NoReturn, Protocol, cast

import lambda_pool
from lambda_pool.cli.terminal import complain


class Command(Protocol):
    """What a subcommand's module offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work and return the exit code: 0 for success, 1 for a bad finding, 2 if it could not be done."""


class _Parser(argparse.ArgumentParser):
    """Does not repeat what may be a URL with a password: a CI job's output is kept, and many people can read it."""

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("lambda-pool").strip()
        hidden = re.sub(r"://\S+", "://***", message)
        raise SystemExit(complain(command, f"{hidden} (`{self.prog} --help` lists the options)"))


_FAILED = "2 the configuration or an argument is wrong, or the command could not do its work"


@dataclass(frozen=True)
class _Entry:
    module: str
    help: str
    good: str
    bad: str = ""
    """What the exit codes 0 and 1 mean; 1 is not used where this is empty."""

    @property
    def exit_codes(self) -> str:
        """All exit codes, in a sentence."""
        return f"Exit codes: 0 {self.good}, {f'1 {self.bad}, ' if self.bad else ''}{_FAILED}."


# A new subcommand is one line here and one module.
_COMMANDS = {
    "demo": _Entry(
        "lambda_pool.cli.demo",
        "run one function, written in three ways, on the genuine Lambda runtime, and compare what happens",
        "lambda_pool made no error",
        "it made one",
    ),
    "doctor": _Entry(
        "lambda_pool.cli.doctor",
        "check the way to the database step by step, and say how to fix what fails",
        "every step went well, or gave only a warning",
        "a step failed",
    ),
    "plan": _Entry(
        "lambda_pool.cli.plan",
        "work out how many connections a function needs, whether they fit, and what to set",
        "today's peak fits",
        "it does not fit",
    ),
    "top": _Entry(
        "lambda_pool.cli.top",
        "watch the connections of a server, with the longest transactions first",
        "it was shown",
    ),
    "dashboard": _Entry(
        "lambda_pool.cli.dashboard",
        "print a CloudWatch dashboard, alarms and log queries for a pool",
        "it was printed",
    ),
}


def _parser(chosen: str | None) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, Command | None]:
    """The parser, with the options of the chosen subcommand only; that subcommand's parser, if any; and its module."""
    parser = mine = _Parser(
        prog="lambda-pool",
        description="One checked, reused database connection per AWS Lambda environment.",
        epilog="`lambda-pool COMMAND --help` shows the options of a command. Exit codes: 0 all is well, 1 "
        f"something is not, {_FAILED}, 130 it was interrupted, 141 its output was not read to the end.",
    )
    parser.add_argument("--version", action="version", version=f"lambda-pool {lambda_pool.__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    command: Command | None = None
    for name, entry in _COMMANDS.items():
        subparser = commands.add_parser(
            name,
            help=entry.help,
            description=entry.help[:1].upper() + entry.help[1:] + ".",
            epilog=entry.exit_codes,
        )
        if name == chosen:
            command = cast(Command, import_module(entry.module))
            command.add_arguments(subparser)
            mine = subparser
    return parser, mine, command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; wrong arguments end in SystemExit(2), as argparse does it."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    sys.stdout, sys.stderr = sys.stdout or StringIO(), sys.stderr or StringIO()  # closed by the caller, as with `>&-`
    # The frame's own options take no value, so the first word is the subcommand.
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        code = _run(arguments, chosen)
        sys.stdout.flush()  # not only at exit: here, a reader that has gone is expected
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # what a shell reports for SIGINT
    except BrokenPipeError:
        # The reader, such as `head`, has gone.
        _forget_output()
        return 141  # what a shell reports for SIGPIPE
    except OSError as error:  # a full disk, or a terminal that has gone
        _forget_output()
        return complain(chosen or "", error)
    return code


def _run(arguments: Sequence[str], chosen: str | None) -> int:
    parser, mine, command = _parser(chosen)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        # The same words as argparse's, but from the subcommand, because its help lists the options.
        known = re.findall(r"--[a-z-]+", mine.format_usage())
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, n=1)
        mine.error(f"unrecognized arguments: {' '.join(unknown)}{f': did you mean {near[0]}?' if near else ''}")
    assert command is not None  # argparse refused every other word
    # The command itself says at its end what the pool and the driver log. Without a handler, Python would print it too.
    for logger in map(logging.getLogger, ("lambda_pool", "psycopg")):
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a server sends may not be in the terminal's encoding
    return command.run(args)


def _forget_output() -> None:
    """Keep Python's own flush at exit from failing a second time."""
    with contextlib.suppress(OSError):  # a stream without a file, as in a test, is not flushed either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
