"""The distributions: complete, valid, and installed without anything else; `make dist` tries the extras as well."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import lambda_pool

pytestmark = pytest.mark.slow("needs the tools that build the distributions")

ROOT = Path(lambda_pool.__file__).parent.parent
TOOLS = ROOT / ".venv-build" / "bin"


def run(*command: str | Path, **variables: str) -> str:
    environment = {**os.environ, "PIP_NO_INDEX": "1", **variables}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions, built without the network."""
    assert (TOOLS / "python").exists(), f"{TOOLS} is missing: `make setup` makes it"
    folder = tmp_path_factory.mktemp("dist")
    run(TOOLS / "python", "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    [found] = dist.glob("*.whl")
    return found


def test_twine_has_nothing_to_say(dist: Path) -> None:
    run(TOOLS / "twine", "check", "--strict", *dist.iterdir())


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.partition("/")[0] for name in names} == {
        "lambda_pool",
        f"lambda_pool-{lambda_pool.__version__}.dist-info",
    }
    for name in ("py.typed", "certs/all.pem", "certs/proxy.pem", "cli/demo/_functions/mysql/with_lambda_pool.py"):
        assert f"lambda_pool/{name}" in names
    assert not [name for name in names if name.endswith(".pyc") or "/tests/" in name]


def test_the_source_distribution_holds_what_the_wheel_and_its_tests_are_made_of(dist: Path) -> None:
    [archive] = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    for name in ("pyproject.toml", "template.yaml", "Makefile", "constraints.txt", "CHANGELOG.md", "LICENSE"):
        assert name in names
    assert {"examples/three_lines/app.py", "scripts/build_layer.py", "tests/conftest.py", "docs/demo.md"} <= names
    assert not [name for name in names if ".venv" in name or name.startswith((".tools", "build/", "dist/"))]


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"lambda_pool-{lambda_pool.__version__}.dist-info/METADATA").decode()
    assert email.message_from_string(metadata)["Version"] == lambda_pool.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", lambda_pool.__version__)
    stated = [
        path
        for path in [ROOT / "pyproject.toml", *ROOT.glob("lambda_pool/**/*.py")]
        if f'"{lambda_pool.__version__}"' in path.read_text()
    ]
    assert stated == [ROOT / "lambda_pool" / "__init__.py"]


def test_the_extras_are_those_that_make_dist_tries() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tried = run(
        TOOLS / "python", "-c", "import check_dist as c; print(sorted(c.TRIES))", PYTHONPATH=str(ROOT / "scripts")
    )
    assert tried.strip() == str(sorted(["", *extras]))


def test_it_installs_alone_and_runs(wheel: Path, any_python: str, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", tmp_path, wheel)
    code = "import lambda_pool, sys; print(lambda_pool.__file__, lambda_pool.__version__)"
    where, version = run(any_python, "-P", "-S", "-W", "error", "-c", code, PYTHONPATH=str(tmp_path)).split()
    assert where.startswith(str(tmp_path))
    assert version == lambda_pool.__version__
    assert (tmp_path / "bin" / "lambda-pool").exists()
