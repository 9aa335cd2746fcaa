"""Measures the branch coverage of lambda_pool under the tests of `make test`, in all processes that they start.

If `make test` samples a test, here all its cases run.

    python scripts/measure_coverage.py               starts from nothing; ends with 1 below the threshold
    python scripts/measure_coverage.py tests/unit/core    add what these tests run to what was measured already
    python scripts/measure_coverage.py --report      show what was measured already

pyproject.toml sets the threshold, and what is not counted; docs/assurance.md says what is not covered and why.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import beside

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".coverage-run"
SETTINGS = ROOT / "pyproject.toml"
LEFT_OUT = {
    "tests/unit/core/test_interrupts.py": "sets a trace function of its own, which ends coverage's",
    "tests/unit/core/test_interleavings.py": "sets a trace function of its own, which ends coverage's",
    "tests/contract/test_interrupts.py": "sets a trace function of its own, which ends coverage's",
    "tests/architecture": "counts calls, modules and system calls, and coverage adds some of each",
    "tests/faults/chaos": "holds every invocation to its deadline, which measuring puts off",
    "tests/faults/fuzz/test_floods.py": "bounds the memory that an answer may take, in a time that measuring stretches",
    "tests/on_lambda/test_snapstart.py": "clones a process, and coverage's open file with it",
    "tests/packaging/layer": "runs what was built, not this tree",
    "tests/packaging": "runs what was built, not this tree",
    "tests/tools/deploy": "runs what was built, not this tree",
    "tests/tools/typing": "has the package read by type checkers, and runs none of it",
}


def measure(tests: list[str]) -> int:
    """Run tests with everything measured. Out: pytest's exit code."""
    data = FOLDER / "data"
    start = f"import coverage_start; coverage_start.begin({str(SETTINGS)!r}, {str(data)!r})"
    python = beside.make(FOLDER / "venv", ROOT, start)
    (site,) = (FOLDER / "venv").glob("lib/python*/site-packages")
    shutil.copy(ROOT / "scripts" / "coverage_start.py", site)
    ignored = [f"--ignore={path}" for path in LEFT_OUT]
    # This interpreter alone is measured: the others have no coverage.py.
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "TEST_PYTHONS"}}
    environment["TEST_CASES"] = "all"  # for the sampled tests: the figure must not depend on the day
    # As in the Makefile: tests that were picked by hand run in one process.
    workers = [] if tests else ["-n", os.environ.get("WORKERS", "4"), "--dist", "loadfile"]
    options = ["-q", "-p", "no:cacheprovider", "-m", "not slow", *workers, *ignored]
    command = [python, "-m", "pytest", *options, *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def report() -> int:
    """Combine the data of all processes, and show it. Out: 0 if it is enough."""
    whole = FOLDER / "whole"
    coverage = [sys.executable, "-m", "coverage"]
    together = ["combine", "--quiet", "--keep", f"--data-file={whole}", *map(str, FOLDER.glob("data.*"))]
    subprocess.run([*coverage, *together], cwd=ROOT, check=True)
    failed = subprocess.run([*coverage, "report", f"--data-file={whole}"], cwd=ROOT, check=False).returncode
    # coverage.py's threshold is for lines and branches together, and only a fifth are branches: they have their own.
    figures = FOLDER / "figures.json"
    subprocess.run(
        [*coverage, "json", "-q", "--fail-under=0", f"--data-file={whole}", "-o", figures], cwd=ROOT, check=True
    )
    totals = json.loads(figures.read_text())["totals"]
    branches = 100 * totals["covered_branches"] / totals["num_branches"]
    least = tomllib.loads(SETTINGS.read_text())["tool"]["coverage"]["report"]["fail_under"]
    print(f"{branches:.1f} % of {totals['num_branches']} branches, but at least {least} % are needed")
    return int(bool(failed) or branches < least)


def main(arguments: list[str]) -> int:
    """Measure and report. Out: the exit code."""
    if arguments == ["--report"]:
        return report()
    if not arguments and FOLDER.exists():
        shutil.rmtree(FOLDER)
    failed = measure(arguments)
    enough = report()
    if failed:
        print("coverage: some tests failed, see above: what they should have run is missing here")
    return int(bool(failed or enough))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
