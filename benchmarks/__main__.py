"""`python -m benchmarks [NAME…]`: run all benchmarks, or some, keep their results and write the page.

Each runs in a process of its own, so that none finds what another imported.
"""

import importlib
import subprocess
import sys
import time

from . import results
from .report import goals, page

NAMES = ("checkout", "invocation", "network", "cold", "recovery", "contention", "server", "round_trips", "log_cost")
FLEET = "fleet"
"""Half an hour, with runs and a page of its own: `python -m benchmarks fleet [RUN…]`."""
_ONE = "--one"


def main(arguments: list[str]) -> int:
    """Return 0 if all went well."""
    if arguments[:1] == [_ONE]:
        results.save(arguments[1], importlib.import_module(f"benchmarks.{arguments[1]}").measure)
        return 0
    if arguments[:1] == [FLEET]:
        return importlib.import_module("benchmarks.fleet.runs").main(arguments[1:])
    unknown = set(arguments) - set(NAMES)
    if unknown:
        known = ", ".join((*NAMES, FLEET))
        print(f"benchmarks: there is no {', '.join(sorted(unknown))}; there are {known}", file=sys.stderr)
        return 2
    started = time.monotonic()
    failed = []
    for name in arguments or NAMES:
        print(f"{name} …", file=sys.stderr)
        if subprocess.run([sys.executable, "-m", "benchmarks", _ONE, name], check=False).returncode != 0:
            failed.append(name)
    page.write()
    print(f"all in {time.monotonic() - started:.0f} s; the page is {page.PATH.relative_to(page.ROOT)}", file=sys.stderr)
    for line in goals.in_short(results.load(results.PATH)):
        print(line)
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)} (their earlier results were kept)", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
