"""The machine-readable results: benchmarks/results-python-3.x.json, one part for each benchmark."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lambda_pool.testing import MariaDbServer, PostgresServer

from .rounds import rounded

PATH = Path(__file__).with_name(f"results-python-{sys.version_info.major}.{sys.version_info.minor}.json")
"""The file that runs on this Python write."""
OLDEST_PATH = Path(__file__).with_name("results-python-3.11.json")
NEWEST_PATH = max(
    Path(__file__).parent.glob("results-python-3.*.json"),
    key=lambda path: int(path.stem.rpartition(".")[2]),
    default=PATH,
)
PACKAGES = (
    "lambda-pool",
    "psycopg",
    "PyMySQL",
    "psycopg-pool",
    "SQLAlchemy",
    "DBUtils",
    "aws-advanced-python-wrapper",
    "boto3",
    "aws-lambda-powertools",
    "awslambdaric",
)


def machine() -> dict[str, str]:
    """What kind of machine this is, without anything that identifies it."""
    fields = dict(
        line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines() if ":" in line
    )
    facts = {key.strip(): value.strip() for key, value in fields.items()}
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": str(os.cpu_count()),
        "processor": facts.get("model name", platform.machine()) + f" ({platform.machine()})",
        "virtual": "yes" if "hypervisor" in facts.get("flags", "") else "no",
        "memory": f"{memory:.0f} GiB",
        "system": release.get("PRETTY_NAME", "Linux").strip('"'),
        "kernel": ".".join(platform.release().split("-")[0].split(".")[:2]),
    }


def versions() -> dict[str, str]:
    """The versions of everything that takes part."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    postgres = PostgresServer.find_binaries() / "postgres"
    for name, program in (("PostgreSQL", str(postgres)), ("MariaDB", MariaDbServer.find_program("mariadbd", "mysqld"))):
        words = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
        found[name] = next(word for word in words if word[0].isdigit()).split("-")[0]
    return found


def load(path: Path) -> dict[str, Any]:
    """All parts so far."""
    parts: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return parts


def _text(parts: dict[str, Any]) -> str:
    """JSON with each of the innermost objects on a line of its own."""
    text = json.dumps(parts, indent=1, ensure_ascii=False) + "\n"
    return re.sub(r"\{[^{}]*\}", lambda match: re.sub(r"\s+", " ", match[0]), text)


def save(name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run one benchmark and keep its results, together with what a reader must know about them."""
    before, started = os.getloadavg()[0], time.monotonic()
    # Metrics go to standard output, as in Lambda: they are written, and nobody reads them.
    sys.stdout.flush()
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    found = rounded(measure())
    part = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": f"make bench NAME={name}",
        "seconds": round(time.monotonic() - started),
        # The load that was there before: it does not include the benchmark's own.
        "load_before": round(before, 2),
        "machine": machine(),
        "versions": versions(),
        "found": found,
    }
    parts = load(PATH)
    parts[name] = part
    PATH.write_text(_text(parts))
    print(f"{name}: {part['seconds']} s", file=sys.stderr)
    return part
