"""`lambda-pool demo`: the same function written three ways, through the same bad day, on the genuine Lambda runtime."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import platform
import signal
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from types import FrameType

from lambda_pool.cli.terminal import StepLines, Terminal, complain, duration, fold

INSTALL = "pip install 'lambda-pool[demo]'"
_DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--engine", choices=list(_DRIVERS), default="postgresql", help="the database to run it on (default: postgresql)"
    )
    parser.add_argument("--quick", action="store_true", help="make fewer invocations, for a first look")
    parser.add_argument(
        "--json", action="store_true", help="print the figures as JSON; progress goes to standard error"
    )
    parser.add_argument("--source", action="store_true", help="print the three functions and end")


def run(args: argparse.Namespace) -> int:
    """Play the script and print the table. Returns 1 if lambda_pool's column has an error, 2 if it cannot run."""
    if args.source:
        return _show_source(args.engine)
    missing = [name for name in (_DRIVERS[args.engine], "awslambdaric") if importlib.util.find_spec(name) is None]
    if missing:
        return complain("demo", f"the demo needs {' and '.join(missing)}: {INSTALL}")
    from lambda_pool.testing.answers import LambdaRuntimeError
    from lambda_pool.testing.runtime import find_emulator
    from lambda_pool.testing.server import ServerError

    try:
        find_emulator()
        with _ended_properly():
            return _play(args)
    except (LambdaRuntimeError, ServerError, TimeoutError) as error:
        return complain("demo", str(error))


def _show_source(engine: str) -> int:
    from lambda_pool.cli.demo.ways import WAYS

    for way in WAYS:
        source = way.source(engine)
        print(f"# {source.name}: {way.title}\n{source.read_text()}")
    return 0


@contextlib.contextmanager
def _ended_properly() -> Iterator[None]:
    """Inside this block, a `kill` and a closed terminal unwind like Ctrl-C, so that no server is left behind."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + signum)

    before = {signum: signal.signal(signum, leave) for signum in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _play(args: argparse.Namespace) -> int:
    from lambda_pool.cli.demo import databases, report, script
    from lambda_pool.cli.demo.ways import OURS

    started = time.monotonic()
    database = databases.MariaDb() if args.engine == "mysql" else databases.Postgres()
    progress = StepLines(Terminal(sys.stderr if args.json else sys.stdout))
    result = script.play(database, script.QUICK if args.quick else script.Length(), progress)
    seconds = time.monotonic() - started
    if args.json:
        print(json.dumps({"engine": args.engine, "seconds": seconds, **report.as_json(result)}, indent=2))
    else:
        where = f"{result.database}, Python {platform.python_version()}, awslambdaric {version('awslambdaric')}"
        title = "\n".join(fold(f"{where}, {duration(seconds)}"))
        print(f"\n{title}\n\n{report.report(result, Terminal(sys.stdout))}")
    return 1 if result.total(OURS).errors else 0
