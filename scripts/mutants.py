"""Breaks one safety rule after another, each in a copy of the tree, and checks whether the tests notice.

The mutants are in mutants.toml beside this file: a small named substitution in one file, the rule that it breaks, and
the tests that must fail because of it. A mutant that survives is a test that is missing.

    python scripts/mutants.py               all of them
    python scripts/mutants.py fork deadline those with one of these words in their name or file
    python scripts/mutants.py --check       only whether each still applies, has its tests, and stands on the page
    python scripts/mutants.py --page        write their table into docs/assurance.md

Prints a line for each, and ends with 1 unless every one was killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import beside

ROOT = Path(__file__).resolve().parent.parent
MUTANTS = ROOT / "scripts" / "mutants.toml"
PAGE = ROOT / "docs" / "assurance.md"
# The parts of the tree that the tests need.
PARTS = ("lambda_pool", "tests", "pyproject.toml")
# Seconds for one test (a test that hangs counts as noticing), and for all tests of a mutant.
ONE_TEST, ALL_TESTS = 60, 240
NOTHING_COLLECTED = 5  # pytest's exit code
BEGIN, END = "<!-- mutants: written by scripts/mutants.py --page -->", "<!-- end of the mutants -->"

# Reports what a handler on the genuine runtime imports, in an environment that knows nothing about this one.
PROBE = """
import pathlib, sys, tempfile
import lambda_pool
from lambda_pool.testing import LambdaRuntime

print(lambda_pool.__file__)
with tempfile.TemporaryDirectory() as folder:
    code = "import lambda_pool\\ndef handler(event, context): return lambda_pool.__file__"
    pathlib.Path(folder, "function.py").write_text(code)
    with LambdaRuntime("function.handler", code_dir=folder) as runtime:
        print(runtime.invoke({}).payload)
"""


@dataclass(frozen=True)
class Mutant:
    """One deliberate breakage. `tests`: pytest's ids. `slow`: why no test of `make test` notices it, if none does."""

    name: str
    rule: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    slow: str = ""

    @property
    def speed(self) -> str:
        """The value of TEST_SPEED for its tests."""
        return "full" if self.slow else "quick"

    def problem(self) -> str:
        """Why it cannot be applied; empty if it can."""
        text = (ROOT / self.file).read_text()
        found = text.count(self.old)
        if found != 1:
            return f"its text is {found} times in {self.file}, but must be there once: change it in mutants.toml"
        try:
            compile(text.replace(self.old, self.new), self.file, "exec")
        except SyntaxError as error:
            return f"{self.file} does not compile with it: {error}"
        return ""


@dataclass(frozen=True)
class Verdict:
    """The result of one mutant."""

    mutant: Mutant
    word: str
    seconds: float
    why: str


def load(file: Path) -> list[Mutant]:
    """All mutants of one file."""
    listed = tomllib.loads(file.read_text())["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in listed]


def tests_of(mutants: list[Mutant]) -> list[str]:
    """All their tests, each once."""
    return sorted({test for mutant in mutants for test in mutant.tests})


class Copy:
    """A copy of the tree with an interpreter that imports it; it is removed at the end of the block."""

    def __enter__(self) -> Copy:
        self._folder = tempfile.TemporaryDirectory(prefix="mutant-")
        self.tree = Path(self._folder.name) / "tree"
        self.tree.mkdir()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, self.tree / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.tree / part)
        self.python = beside.make(Path(self._folder.name) / "venv", self.tree)
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(self, *arguments: str, seconds: float, speed: str = "quick") -> tuple[int | None, str]:
        """Run the copy's interpreter. Out: its exit code (None: it took too long) and what it wrote."""
        environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "TEST_PYTHONS"}}
        environment["TEST_SPEED"] = speed
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            process = subprocess.Popen(
                [self.python, *arguments],
                cwd=self.tree,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            code: int | None
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
                end(process)
            output.seek(0)
            return code, output.read()

    def test(self, *tests: str, seconds: float, speed: str) -> tuple[int | None, str]:
        """Run tests on the copy."""
        options = ("-q", "-rfE", "--tb=line", "-p", "no:cacheprovider", "--timeout", str(ONE_TEST))
        return self.run("-m", "pytest", *options, *tests, seconds=seconds, speed=speed)


def end(process: subprocess.Popen[bytes]) -> None:
    """End one of our processes and all that it started."""
    from lambda_pool.testing.processes import stop_family

    for pid in stop_family(process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def prove() -> str:
    """Check that a copy's interpreter and the genuine runtime import the copy. Raises SystemExit if they do not."""
    with Copy() as copy:
        code, output = copy.run("-c", PROBE, seconds=60)
        wanted = str(copy.tree / "lambda_pool" / "__init__.py")
        if code != 0 or output.split() != [wanted, wanted]:
            raise SystemExit(f"mutants: the copy is not what is imported, but\n{output}")
    return "a copy is what is imported, by the tests and on the genuine runtime"


def baseline(mutants: list[Mutant]) -> str:
    """Run every test without a mutant, so that a failing test is not taken for a kill. Raises SystemExit."""
    start = time.monotonic()
    with Copy() as copy:
        for speed in sorted({mutant.speed for mutant in mutants}):
            tests = tests_of([mutant for mutant in mutants if mutant.speed == speed])
            code, output = copy.test(*tests, seconds=ALL_TESTS * 5, speed=speed)
            if code != 0:
                raise SystemExit(f"mutants: the tests fail without any mutant:\n{output[-3000:]}")
    named = len(tests_of(mutants))
    return f"without a mutant, all their tests pass ({named} named, {time.monotonic() - start:.0f} s)"


def judge(mutant: Mutant) -> Verdict:
    """Apply one mutant to a copy and run its tests."""
    start = time.monotonic()

    def verdict(word: str, why: str) -> Verdict:
        return Verdict(mutant, word, time.monotonic() - start, why)

    problem = mutant.problem()
    if problem:
        return verdict("broken", problem)
    with Copy() as copy:
        file = copy.tree / mutant.file
        file.write_text(file.read_text().replace(mutant.old, mutant.new))
        module = mutant.file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        code, output = copy.run("-c", f"import {module}", seconds=30)
        if code != 0:
            return verdict("broken", f"it cannot be imported: {output.strip().splitlines()[-1:]}")
        code, output = copy.test("-x", *mutant.tests, seconds=ALL_TESTS, speed=mutant.speed)
    failed = re.search(r"^FAILED (\S+)(.*)$", output, re.MULTILINE)
    if code is None:
        return verdict("too slow", f"its tests took more than {ALL_TESTS} s")
    if code == 0:
        return verdict("SURVIVED", mutant.rule)
    if code != 1 or failed is None:  # no test was run, or something around it failed
        return verdict("broken", output[-500:])
    return verdict("killed", failed[1].removeprefix("tests/") + failed[2][:120])


def page(mutants: list[Mutant]) -> str:
    """The page with their table."""
    lines = ["| mutant | in | the rule it breaks | caught by |", "|---|---|---|---|"]
    for mutant in mutants:
        tests = ", ".join(f"`{test.removeprefix('tests/').replace('|', ' ')}`" for test in mutant.tests)
        lines.append(
            f"| {mutant.name} | `{mutant.file.removeprefix('lambda_pool/')}` | {mutant.rule} | {tests} |",
        )
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}\n{chr(10).join(lines)}\n{END}{rest.partition(END)[2]}"


def collect(tests: list[str], *options: str) -> tuple[int, str]:
    """Collect tests, and run none. Out: pytest's exit code and what it wrote."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *options, *tests]
    full = {**os.environ, "TEST_SPEED": "full"}  # where no case is left out of the sample of the day
    done = subprocess.run(command, cwd=ROOT, env=full, capture_output=True, text=True, timeout=ALL_TESTS, check=False)
    return done.returncode, (done.stderr or done.stdout)[-2000:]


def check(mutants: list[Mutant]) -> list[str]:
    """What is wrong with the mutants themselves: one does not apply, or a test does not exist or is slow."""
    problems = [f"{mutant.name}: {problem}" for mutant in mutants if (problem := mutant.problem())]
    code, output = collect(tests_of(mutants))
    if code != 0:
        return [*problems, f"some of the tests do not exist:\n{output}"]
    quick = tests_of([mutant for mutant in mutants if not mutant.slow])
    if quick and (found := collect(quick, "-m", "slow"))[0] != NOTHING_COLLECTED:
        problems.append(f'`make test` leaves some of the tests out: name others, or say slow = "…":\n{found[1]}')
    return problems


def main(arguments: list[str]) -> int:
    """Run the mutants that were asked for. Out: the exit code."""
    parser = argparse.ArgumentParser(description="Break safety rules, and look whether the tests notice.")
    parser.add_argument("words", nargs="*", help="parts of names or files; none: all mutants")
    parser.add_argument("--check", action="store_true", help="only look whether each applies")
    parser.add_argument("--page", action="store_true", help="only write their table into docs/assurance.md")
    parser.add_argument("--from", dest="file", type=Path, default=MUTANTS, help="mutants other than the project's own")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    asked = parser.parse_args(arguments)
    everyone = load(asked.file)
    if asked.page:
        PAGE.write_text(page(everyone))
        return 0
    chosen = [
        mutant
        for mutant in everyone
        if not asked.words or any(word in mutant.name or word in mutant.file for word in asked.words)
    ]
    if not chosen:
        raise SystemExit(f"mutants: none has one of {', '.join(asked.words)} in its name or file")
    if asked.check:
        problems = check(chosen)
        if asked.file == MUTANTS and PAGE.read_text() != page(everyone):
            problems.append("docs/assurance.md shows other mutants: update it with scripts/mutants.py --page")
        print("\n".join(problems) or f"all {len(chosen)} mutants apply")
        return int(bool(problems))
    print(prove(), flush=True)
    print(baseline(chosen), flush=True)
    alive = 0
    with ThreadPoolExecutor(asked.jobs) as threads:
        for verdict in threads.map(judge, chosen):
            alive += verdict.word != "killed"
            print(f"{verdict.word:9} {verdict.mutant.name:44} {verdict.seconds:4.0f} s  {verdict.why}", flush=True)
    print(f"{len(chosen) - alive} of {len(chosen)} mutants were killed")
    return int(alive > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
