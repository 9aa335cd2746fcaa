"""Environments beside .venv with other versions of what we depend on, and the tests that are run in them."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
# What the tests themselves use.
_TOOLS = (
    "cryptography",
    "hypothesis",
    "mangum",
    "moto[server,rds,secretsmanager]",
    "opentelemetry-sdk",
    "packaging",
    "psutil",
    "pytest",
    "pytest-timeout",
)


def requirements() -> list[Requirement]:
    """Every dependency of the package and of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    found = [Requirement(text) for text in [*project["dependencies"], *(text for extra in extras for text in extra)]]
    return [each for each in found if canonicalize_name(each.name) != canonicalize_name(project["name"])]


def lowest(requirement: Requirement) -> str:
    """The same, at the lowest version that it allows."""
    [floor] = [part.version for part in requirement.specifier if part.operator == ">="]
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}=={floor}"


def make(folder: Path, packages: Iterable[str], *options: str, python: str | Path = sys.executable) -> Path:
    """Make one with the package, these packages and the tests' tools. `options`: pip's. Out: its interpreter."""
    _run([python, "-m", "venv", folder])
    made = folder / "bin" / "python"
    pip: list[str | Path] = [made, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    _run([*pip, *options, *packages, *_TOOLS])
    _run([*pip, "--no-deps", "-e", ROOT])
    return made


NEED_INSTRUMENTORS = ("tests/contract/test_instrumentors.py", "tests/contract/test_trace_comments.py")
"""Suites that need OpenTelemetry's instrumentors, which are no dependency of ours."""


def run_tests(python: str | Path, *tests: str, without: Sequence[str] = NEED_INSTRUMENTORS, **variables: str) -> str:
    """Run tests, but the slow ones and those `without`, and return what pytest says. AssertionError if one fails."""
    ignored = [f"--deselect={path}" if "::" in path else f"--ignore={ROOT / path}" for path in without]
    quick = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    return _run([*quick, *tests, *ignored], **variables)


def _run(command: list[str | Path], **variables: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in {"TEST_SPEED", "TEST_PYTHONS"}}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout
