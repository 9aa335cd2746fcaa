"""What is in a layer: enough, not too much, for the right machine, and the same bytes each time."""

import importlib.util
import re
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT, Build, build_layer

pytestmark = pytest.mark.slow("needs the wheels of the layers, for each Python")

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TARGETS = [(arch, python) for arch in ("arm64", "x86_64") for python in PYTHONS]
VARIANTS = ("both", "postgres", "mysql")
LIMITS = {"both": 16, "postgres": 16, "mysql": 2}
"""MB unzipped, as Lambda counts them, without Powertools."""
GLIBC = {"3.11": 26, "3.12": 34, "3.13": 34, "3.14": 34}
MACHINES = {"x86_64": 62, "arm64": 183}
"""ELF's e_machine."""
PACKAGES = {
    "both": {"lambda_pool", "psycopg", "psycopg_binary", "psycopg_binary.libs", "pymysql"},
    "postgres": {"lambda_pool", "psycopg", "psycopg_binary", "psycopg_binary.libs"},
    "mysql": {"lambda_pool", "pymysql"},
}


def packages(opt: Path) -> set[str]:
    """Top-level names in the layer, but for records of distributions."""
    return {path.name for path in (opt / "python").iterdir() if not path.name.endswith(".dist-info")}


def sizes(opt: Path) -> tuple[int, int]:
    """Bytes unzipped: without, and of, Powertools and what only it needs."""
    drivers = powertools = 0
    needed = any("typing-extensions" in line and "python_version" in line for line in psycopg_needs(opt))
    for path in opt.rglob("*"):
        if path.is_file():
            top = path.relative_to(opt / "python").parts[0]
            if top.startswith("aws_lambda_powertools") or (top.startswith("typing_extensions") and not needed):
                powertools += path.stat().st_size
            else:
                drivers += path.stat().st_size
    return drivers, powertools


def psycopg_needs(opt: Path) -> list[str]:
    return [
        line
        for record in opt.glob("python/psycopg-*.dist-info/METADATA")
        for line in record.read_text().splitlines()
        if line.startswith("Requires-Dist")
    ]


def targets(variant: str) -> list[tuple[str, str]]:
    """psycopg has no wheel for Amazon Linux 2's glibc on arm64."""
    return [target for target in TARGETS if variant == "mysql" or target != ("arm64", "3.11")]


@pytest.mark.parametrize("variant", VARIANTS)
def test_size_and_content(build: Build, variant: str) -> None:
    for arch, python in targets(variant):
        opt = build(arch, python, variant)
        assert packages(opt) - {"typing_extensions.pyc", "typing_extensions.py"} == {
            *PACKAGES[variant],
            "aws_lambda_powertools",
        }
        drivers, powertools = sizes(opt)
        assert drivers <= LIMITS[variant] * 2**20, f"{arch} {python}: {drivers / 2**20:.2f} MB"
        assert powertools <= 4.5 * 2**20


@pytest.mark.parametrize("variant", VARIANTS)
def test_compiled_parts_run_on_lambdas_machine_and_glibc(build: Build, variant: str) -> None:
    for arch, python in targets(variant):
        libraries = [path for path in build(arch, python, variant).rglob("*") if ".so" in path.name]
        assert bool(libraries) == (variant != "mysql")
        for library in libraries:
            content = library.read_bytes()
            assert content[:4] == b"\x7fELF"
            assert int.from_bytes(content[18:20], "little") == MACHINES[arch], library.name
            wanted = max((int(minor) for minor in re.findall(rb"GLIBC_2\.(\d+)", content)), default=0)
            assert wanted <= GLIBC[python], f"{library.name} wants glibc 2.{wanted}"
            if ".cpython-" in library.name:
                assert f".cpython-{python.replace('.', '')}-" in library.name


def test_psycopg_on_amazon_linux_2_on_arm64_is_refused_by_name(tmp_path: Path) -> None:
    done = build_layer("--arch", "arm64", "--python", "3.11", "--into", str(tmp_path))
    assert done.returncode == 1
    assert "there is no wheel of psycopg" in done.stderr
    assert "a newer Python has a newer glibc" in done.stderr


def test_byte_code_is_of_the_right_python_and_stands_alone(build: Build) -> None:
    for arch in ("arm64", "x86_64"):
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        opt = build(arch, python, "mysql")
        compiled = list(opt.rglob("*.pyc"))
        assert len(compiled) > 100
        assert not list(opt.rglob("*.py"))
        for path in compiled:
            header = path.read_bytes()[:8]
            assert header[:4] == importlib.util.MAGIC_NUMBER
            # By hash, and not to be checked: the sources are not there, and times differ from build to build.
            assert header[4:] == (1).to_bytes(4, "little")
            assert b"/opt/python/" in path.read_bytes()
            assert str(ROOT).encode() not in path.read_bytes()


def test_nothing_that_the_runtime_has_or_a_function_does_not_need(build: Build) -> None:
    opt = build("x86_64", "3.13", "both")
    for name in ("boto3", "botocore", "jmespath", "urllib3", "simplejson", "awslambdaric", "pytest"):
        assert not list(opt.glob(f"python/{name}*"))
    package = opt / "python" / "lambda_pool"
    assert not (package / "testing").exists()
    assert {path.stem for path in (package / "cli").iterdir()} == {
        "__init__",
        "arguments",
        "database",
        "doctor",
        "terminal",
    }
    assert {path.name for path in opt.glob("python/lambda_pool/certs/*.pem")} == {
        path.name for path in (ROOT / "lambda_pool" / "certs").glob("*.pem")
    }
    assert not list(opt.rglob("*.pyi"))
    for license_of in ("lambda_pool", "psycopg", "psycopg_binary", "pymysql", "aws_lambda_powertools"):
        [record] = opt.glob(f"python/{license_of}-*.dist-info")
        assert [path for path in record.rglob("*") if "LICENSE" in path.name.upper()], license_of


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first.zip", tmp_path / "elsewhere" / "second.zip"
    for arch in ("arm64", "x86_64"):
        arguments = ("--arch", arch, "--python", "3.13", "--variant", "both", "--zip")
        assert build_layer(*arguments, str(first)).returncode == 0
        assert build_layer(*arguments, str(second), PYTHONHASHSEED="7", TZ="Asia/Tokyo").returncode == 0
        assert first.read_bytes() == second.read_bytes()
        with zipfile.ZipFile(first) as archive:
            assert all(name.startswith("python/") for name in archive.namelist())
            assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
            assert {entry.external_attr >> 16 for entry in archive.infolist()} == {0o100644}


def test_without_powertools(tmp_path: Path) -> None:
    arguments = ("--arch", "arm64", "--python", "3.13", "--variant", "mysql", "--without-powertools")
    assert build_layer(*arguments, "--into", str(tmp_path)).returncode == 0
    assert packages(tmp_path) == {"lambda_pool", "pymysql"}
