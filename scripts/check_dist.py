"""Installs the distributions in dist/ on every supported Python of this machine, and tries them out.

These are the source distribution, and the wheel with each extra alone.

It needs a package index, for the dependencies of the extras. Prints a line for each, and ends with 1 if one fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from build_layer import PYTHONS, ROOT, find_python

MOST_SECONDS = 300
TRIES = {
    "": """
from lambda_pool import ConfigError, Pool
for engine, extra in (("postgresql", "postgres"), ("mysql", "mysql")):
    try:
        Pool(engine + "://app@db.example/app")
    except ConfigError as error:
        assert f"lambda-pool[{extra}]" in str(error), error
    else:
        raise AssertionError("a driver is here that nobody asked for")
""",
    "postgres": "from lambda_pool import Pool; Pool('postgresql://app@db.example/app')",
    "mysql": "from lambda_pool import Pool; Pool('mysql://app@db.example/app')",
    "aws": "from lambda_pool.aws.sdk import load_session; load_session()",
    "metrics": "from aws_lambda_powertools import Metrics; from lambda_pool.metrics import PowertoolsMetrics as p; "
    "p(Metrics(namespace='n'))",
    "otel": "from lambda_pool.metrics import OtelMetrics; OtelMetrics()",
    "asyncio": "import greenlet, lambda_pool.aio.pool as p; assert p.AsyncPool",
    "sqlalchemy": "import sqlalchemy, lambda_pool.sqlalchemy as s; assert s.create_engine",
    "fastapi": "import fastapi, lambda_pool.fastapi as f; assert f.session",
    "django": "import django, lambda_pool.django.postgresql",
    "all": "from lambda_pool import Pool; Pool('postgresql://app@db.example/app'); Pool('mysql://app@db.example/app')",
    "testing": "import awslambdaric, pytest; from lambda_pool.testing import LambdaRuntime",
    "demo": "from lambda_pool.cli import main; assert main(['demo', '--source']) == 0",
}


SOURCE = "source"
"""Stands for the source distribution, among the extras."""


def check(python: str, built: Path, extra: str) -> str:
    """Install and try one. Returns what is wrong, or an empty text."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": os.environ.get("HOME", folder)}

        def run(*command: str) -> str:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS, check=False
            )
            return "" if done.returncode == 0 else f"{' '.join(command)[:200]}: {(done.stderr or done.stdout)[-500:]}"

        made = f"{folder}/venv/bin/python"
        wanted = f"{built}[{extra}]" if extra and extra != SOURCE else str(built)
        pip = (made, "-m", "pip", "--disable-pip-version-check")
        return (
            run(python, "-m", "venv", "venv")
            or run(*pip, "install", "-q", "-c", str(ROOT / "constraints.txt"), wanted)
            or run(*pip, "check")
            or run(made, "-W", "error", "-c", TRIES["" if extra == SOURCE else extra])
            or run(f"{folder}/venv/bin/lambda-pool", "--version")
        )


def main() -> int:
    """Check every pair of Python and extra, two at a time."""
    [wheel] = (ROOT / "dist").glob("*.whl")
    [source] = (ROOT / "dist").glob("*.tar.gz")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    if set(TRIES) - {""} != set(extras):
        print(f"check_dist: TRIES must name every extra: {sorted(set(extras) ^ set(TRIES) - {''})}", file=sys.stderr)
        return 1
    pythons = [(version, path) for version in PYTHONS if (path := find_python(version))]
    pairs = [(version, path, extra) for version, path in pythons for extra in (*TRIES, SOURCE)]
    problems = []
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda pair: check(pair[1], source if pair[2] == SOURCE else wheel, pair[2]), pairs)
        for (version, _, extra), problem in zip(pairs, found, strict=True):
            line = f"Python {version} {f'[{extra}]' if extra else 'alone':11} {problem or 'installs and works'}"
            print(line, flush=True)  # each line as soon as it is known: all of them take minutes
            problems.append(problem)
    missing = [version for version in PYTHONS if version not in dict(pythons)]
    if missing:
        print(f"not checked, because its interpreter is missing: Python {', '.join(missing)}")
    return 1 if any(problems) else 0


if __name__ == "__main__":
    raise SystemExit(main())
