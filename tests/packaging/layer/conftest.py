"""Layers laid out as Lambda lays them out, and an interpreter that has nothing but what Lambda's runtime has."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.auth.conftest import (  # noqa: F401 - fixtures
    iam_genuine_server,
    iam_mariadb_server,
    iam_postgres_server,
    iam_server,
)

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "scripts" / "build_layer.py"

COPY = """
import importlib.metadata as metadata, os, pathlib, shutil, sys
target = pathlib.Path(sys.argv[1])
for name in ("awslambdaric", "simplejson", "snapshot_restore_py"):  # Lambda's runtime, as far as it is public
    for file in metadata.distribution(name).files:
        source = pathlib.Path(file.locate())
        if source.suffix != ".pyc" and ".." not in file.parts:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target / file)
"""

Build = Callable[..., Path]


def version_of(python: str) -> str:
    """`3.X` of an interpreter."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def build_layer(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the build script on the wheels that `make setup` fetched, without the network."""
    environment = {**os.environ, "PIP_NO_INDEX": "1", **variables}
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--quick", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """build(arch, python, variant): the folder that is /opt in Lambda, built once."""
    built: dict[tuple[str, str, str], Path] = {}

    def make(arch: str, python: str, variant: str) -> Path:
        key = (arch, python, variant)
        if key not in built:
            folder = tmp_path_factory.mktemp("opt")
            done = build_layer("--arch", arch, "--python", python, "--variant", variant, "--into", str(folder))
            assert done.returncode == 0, done.stderr
            built[key] = folder
        return built[key]

    return make


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """clean(python): an interpreter of the same version with Lambda's runtime, and no other package."""
    made: dict[str, str] = {}

    def make(python: str) -> str:
        if python not in made:
            folder = tmp_path_factory.mktemp("clean")
            subprocess.run([python, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
            [packages] = folder.glob("lib/python3.*/site-packages")
            subprocess.run([python, "-c", COPY, str(packages)], check=True, timeout=60)
            made[python] = str(folder / "bin" / "python")
        return made[python]

    return make
