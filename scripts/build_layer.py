"""Builds a Lambda layer: lambda_pool, its drivers and Powertools, for one architecture and one Python.

    python scripts/build_layer.py --arch arm64 --python 3.13 --variant both

writes `build/layer-arm64-python3.13-both.zip` (the same bytes from the same inputs), or with --into a folder `python/`
as Lambda mounts it under /opt. It needs pip for wheels that are not in .tools/wheels yet, and nothing else.

The modules are compiled, and their sources left out: /opt is read-only, so Python would have to compile them again in
each cold start. The cost of a cold start is printed for layers that this machine can run. For a Python that this
machine does not have, the sources are shipped as they are.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
WHEELS = ROOT / ".tools" / "wheels"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# The newest glibc symbols that a wheel may ask for. Python 3.11 runs on Amazon Linux 2, the others on 2023:
# https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtimes.html
GLIBC = {"3.11": 26, "3.12": 34, "3.13": 34, "3.14": 34}
MACHINES = {"arm64": "aarch64", "x86_64": "x86_64"}
DRIVERS = {
    "both": ("psycopg", "psycopg-binary", "PyMySQL"),
    "postgres": ("psycopg", "psycopg-binary"),
    "mysql": ("PyMySQL",),
}
POWERTOOLS = ("aws_lambda_powertools",)
# What a distribution needs but Lambda's runtime does not have. Powertools' jmespath comes with the runtime's boto3.
NEEDS_TYPING_EXTENSIONS = {"psycopg": ("3.11", "3.12"), "aws_lambda_powertools": PYTHONS}

# These are of no use inside a function: the tools for tests, and the command line except for the doctor.
LEFT_OUT = ("testing", "cli/dashboard.py", "cli/demo", "cli/plan", "cli/top.py")
UNUSED_SUFFIXES = (".pyi", ".pyx", ".pxd", ".c")
# psycopg tries these if its compiled part is missing; in the layer it never is.
UNUSED_MODULES = ("psycopg/pq/pq_ctypes.py", "psycopg/pq/_pq_ctypes.py")
UNUSED_RECORDS = ("RECORD", "WHEEL", "INSTALLER", "REQUESTED", "entry_points.txt", "top_level.txt")

IMPORTS = {
    "both": ("postgresql", "mysql"),
    "postgres": ("postgresql",),
    "mysql": ("mysql",),
}
ROUNDS = 15
MB = 2**20
"""As Lambda counts: its quota of 250 MB is 262,144,000 bytes."""


class LayerError(Exception):
    """The layer cannot be built; the text says what to do."""


@dataclass(frozen=True)
class Layer:
    """What is to be built."""

    arch: str
    python: str
    variant: str
    powertools: bool

    @property
    def distributions(self) -> list[str]:
        """The distributions that are taken from wheels, in the order in which they are unpacked."""
        chosen = [*DRIVERS[self.variant], *(POWERTOOLS if self.powertools else ())]
        if any(self.python in NEEDS_TYPING_EXTENSIONS.get(name, ()) for name in chosen):
            chosen.append("typing_extensions")
        return chosen

    @property
    def name(self) -> str:
        """The zip file's name, without its ending."""
        bare = "" if self.powertools else "-without-powertools"
        return f"layer-{self.arch}-python{self.python}-{self.variant}{bare}"


# --- wheels -----------------------------------------------------------------------------------------------------------


def pinned() -> dict[str, str]:
    """The versions in constraints.txt, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {normalise(name): version.strip() for name, version in pairs}


def normalise(name: str) -> str:
    """A distribution's name as wheels spell it: PEP 427 and PEP 503."""
    return re.sub(r"[-_.]+", "_", name).lower()


def find_wheel(folder: Path, name: str, version: str) -> Path | None:
    """The wheel of exactly this version in the folder, if there is one."""
    for wheel in sorted(folder.glob("*.whl")):
        parts = wheel.name.split("-")
        if normalise(parts[0]) == normalise(name) and parts[1] == version:
            return wheel
    return None


def wheels(layer: Layer) -> list[Path]:
    """The wheels for the layer, downloaded if they are missing. Raises LayerError."""
    folder = WHEELS / f"{layer.arch}-python{layer.python}"
    versions = pinned()
    found = []
    for name in layer.distributions:
        version = versions[normalise(name)]
        wheel = find_wheel(folder, name, version) or download(layer, folder, name, version)
        found.append(wheel)
    return found


def download(layer: Layer, folder: Path, name: str, version: str) -> Path:
    """Fetch one wheel that runs on Lambda's glibc. Raises LayerError."""
    machine = MACHINES[layer.arch]
    tags = [f"manylinux2014_{machine}"]
    tags += [f"manylinux_2_{minor}_{machine}" for minor in range(17, GLIBC[layer.python] + 1)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--dest", str(folder), "--only-binary", ":all:", "--implementation", "cp"]
    command += ["--python-version", layer.python]
    for tag in tags:
        command += ["--platform", tag]
    done = subprocess.run([*command, f"{name}=={version}"], capture_output=True, text=True, check=False)
    wheel = find_wheel(folder, name, version)
    if wheel is None:
        said = next((line for line in done.stderr.splitlines() if "ERROR" in line), done.stderr.strip()[-300:])
        said = said.partition(" (from versions")[0]  # without the list of all versions
        raise LayerError(
            f"there is no wheel of {name} {version} for {layer.arch}, Python {layer.python} and glibc "
            f"2.{GLIBC[layer.python]}{': a newer Python has a newer glibc' if layer.python == '3.11' else ''} ({said})"
        )
    return wheel


# --- contents ---------------------------------------------------------------------------------------------------------


def is_needed(name: PurePosixPath) -> bool:
    """False for files that nobody reads at run time."""
    if name.suffix in UNUSED_SUFFIXES or str(name) in UNUSED_MODULES or "__pycache__" in name.parts:
        return False
    in_record = name.parts[0].endswith(".dist-info")
    return not (in_record and (name.name in UNUSED_RECORDS or "sboms" in name.parts))


def unpack(wheel: Path, into: Path) -> None:
    """Unpack a wheel of pure library files, without needless files. Raises LayerError for other kinds."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            if name.parts[0].endswith(".data"):
                raise LayerError(f"{wheel.name} holds {name}, but this script does not know where that belongs")
            if entry.is_dir() or not is_needed(name):
                continue
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))


def own_version() -> str:
    """lambda_pool's version, from the only place that states it."""
    text = (ROOT / "lambda_pool" / "__init__.py").read_text()
    match = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if match is None:
        raise LayerError("lambda_pool/__init__.py holds no __version__")
    return match[1]


def copy_package(into: Path) -> None:
    """Copy lambda_pool, and enough of a record for importlib.metadata to know its version."""
    skip = shutil.ignore_patterns("__pycache__", *UNUSED_SUFFIXES)

    def ignore(folder: str, names: list[str]) -> set[str]:
        here = Path(folder).relative_to(ROOT / "lambda_pool")
        return set(skip(folder, names)) | {name for name in names if (here / name).as_posix() in LEFT_OUT}

    shutil.copytree(ROOT / "lambda_pool", into / "lambda_pool", ignore=ignore)
    record = into / f"lambda_pool-{own_version()}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: lambda-pool\nVersion: {own_version()}\nLicense-Expression: Apache-2.0\n"
    )
    shutil.copy(ROOT / "LICENSE", record / "LICENSE")


# --- byte-code --------------------------------------------------------------------------------------------------------

# In one process and one order: marshal's output depends on how often an object is used at that moment. Docstrings, and
# the asserts that only type checkers need, are left out of lambda_pool: nobody reads them in a function.
COMPILE = """
import os, pathlib, py_compile, sys
root = pathlib.Path(sys.argv[1])
for source in sorted(root.rglob("*.py")):
    shown = "/opt/python/" + source.relative_to(root).as_posix()
    level = 2 if source.is_relative_to(root / "lambda_pool") else 0
    py_compile.compile(str(source), str(source.with_suffix(".pyc")), shown, doraise=True, optimize=level,
                       invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    source.unlink()
"""


def find_python(version: str) -> str | None:
    """An interpreter of this version, if the machine has one."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [sys.executable] if here == version else []
    candidates += [path for path in [shutil.which(f"python{version}")] if path]
    candidates += [str(path) for path in sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))]
    for candidate in candidates:
        # There may be only a shim there, without a Python behind it.
        if subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


def compile_all(folder: Path, interpreter: str) -> None:
    """Replace every source by its byte-code. Raises LayerError."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONHASHSEED": "0"}
    command = [interpreter, "-S", "-c", COMPILE, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LayerError(f"a module cannot be compiled: {done.stderr.strip()[-500:]}")


# --- out --------------------------------------------------------------------------------------------------------------


def files(folder: Path) -> Iterator[Path]:
    """Every file below the folder, in an order that does not depend on the machine."""
    yield from sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.as_posix())


def write_zip(folder: Path, target: Path) -> None:
    """Zip the folder's content under `python/`, with nothing that differs from one build to the next."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in files(folder):
            entry = zipfile.ZipInfo(f"python/{path.relative_to(folder).as_posix()}", (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # Unix, whatever builds it
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())


def sizes(folder: Path) -> dict[str, int]:
    """Unzipped size in bytes: of `powertools` (with what only it needs), and of `layer`, which is everything else."""
    result = {"layer": 0, "powertools": 0}
    drivers_need_typing = any(folder.glob("psycopg")) and any(
        "typing-extensions" in line and "python_version" in line
        for record in folder.glob("psycopg-*.dist-info/METADATA")
        for line in record.read_text().splitlines()
    )
    for path in files(folder):
        top = path.relative_to(folder).parts[0].lower()
        only_powertools = top.startswith("aws_lambda_powertools") or (
            top.startswith("typing_extensions") and not drivers_need_typing
        )
        result["powertools" if only_powertools else "layer"] += path.stat().st_size
    return result


# --- cold start -------------------------------------------------------------------------------------------------------

START = """
import sys, time
sys.path.insert(0, sys.argv[1])
import lambda_pool
for engine in sys.argv[2:]:
    lambda_pool.Pool(engine + "://app@localhost/app")
print(time.process_time())
"""


def cold_start(folder: Path, layer: Layer, interpreter: str) -> float:
    """Milliseconds of CPU time from process start until the drivers are imported and there is a pool for each."""
    environment = {"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [interpreter, "-S", "-c", START, str(folder), *IMPORTS[layer.variant]]
    times = []
    for _ in range(ROUNDS):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LayerError(f"the layer does not import: {done.stderr.strip()[-500:]}")
        times.append(float(done.stdout) * 1e3)
    return statistics.median(times)


def build(layer: Layer, folder: Path, *, bytecode: bool = True) -> str | None:
    """Fill the folder with what belongs under `python/`. Returns the interpreter that compiled it, if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in wheels(layer):
        unpack(wheel, folder)
    copy_package(folder)
    interpreter = find_python(layer.python)
    if bytecode and interpreter is not None:
        compile_all(folder, interpreter)
    return interpreter


def report(layer: Layer, folder: Path, interpreter: str | None, *, measure: bool) -> None:
    """Print the size, and the cold start if this machine can measure it."""
    size = sizes(folder)
    print(f"{layer.name}: {size['layer'] / MB:.2f} MB unzipped", end="")
    print(f", and Powertools {size['powertools'] / MB:.2f} MB" if layer.powertools else "")
    if interpreter is None:
        print(f"  sources, not byte-code: there is no Python {layer.python} on this machine to compile them with")
        return
    if not measure:
        return
    if platform.machine() not in {MACHINES[layer.arch], layer.arch}:
        print(f"  cold start: not measured, this machine is {platform.machine()}")
        return
    with tempfile.TemporaryDirectory() as temporary:
        plain = Path(temporary)
        build(layer, plain, bytecode=False)
        fast, slow = cold_start(folder, layer, interpreter), cold_start(plain, layer, interpreter)
    print(
        f"  cold start, CPU time until the drivers are imported: {fast:.0f} ms; with sources instead of byte-code it "
        f"would be {slow:.0f} ms (median of {ROUNDS})"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Build one layer and print what it weighs."""
    parser = argparse.ArgumentParser(description="Build a Lambda layer of lambda_pool and its drivers.")
    parser.add_argument("--arch", choices=list(MACHINES), default="arm64")
    parser.add_argument("--python", choices=PYTHONS, default="3.13")
    parser.add_argument("--variant", choices=list(DRIVERS), default="both")
    parser.add_argument("--without-powertools", action="store_true")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="write FOLDER/python instead of a zip file")
    parser.add_argument("--zip", type=Path, metavar="FILE", help="default: build/layer-ARCH-pythonVERSION-VARIANT.zip")
    parser.add_argument("--fetch", action="store_true", help="only fetch the wheels")
    parser.add_argument("--quick", action="store_true", help="do not measure the cold start")
    args = parser.parse_args(argv)
    layer = Layer(args.arch, args.python, args.variant, not args.without_powertools)
    try:
        if args.fetch:
            wheels(layer)
            return 0
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "python"
            interpreter = build(layer, folder)
            report(layer, folder, interpreter, measure=not args.quick)
            if args.into is not None:
                shutil.rmtree(args.into / "python", ignore_errors=True)
                shutil.copytree(folder, args.into / "python")
                return 0
            target = args.zip or ROOT / "build" / f"{layer.name}.zip"
            write_zip(folder, target)
            digest = hashlib.sha256(target.read_bytes()).hexdigest()
            print(f"  {target}: {target.stat().st_size / MB:.2f} MB zipped, sha256 {digest}")
    except LayerError as error:
        print(f"layer: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
