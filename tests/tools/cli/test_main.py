"""The frame of the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lambda_pool
from lambda_pool.cli import main

_LOADED = (
    "import sys; from lambda_pool.cli import main\n"
    "try: main(sys.argv[1:])\n"
    "except SystemExit: pass\n"
    "print([name for name in sys.modules if name.startswith('lambda_pool.')])"
)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"lambda-pool {lambda_pool.__version__}\n"


def test_it_can_be_run_as_a_module() -> None:
    """Where `pip install --target` leaves no script on the PATH."""
    command = [sys.executable, "-m", "lambda_pool", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'nonsense'" in done.stderr


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    assert "demo" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["--nonsense"], ["demo", "--nonsense"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("lambda-pool")
    assert line.endswith("--help` lists the options)")


def test_a_misspelled_option_names_the_commands_own_help_and_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["top", "--onec", "postgresql://h/d"])
    error = capsys.readouterr().err
    assert "--onec: did you mean --once? (`lambda-pool top --help` lists the options)" in " ".join(error.split())


@pytest.mark.parametrize(
    ("arguments", "loads_demo"), [(["--help"], False), (["--version"], False), (["demo", "-h"], True)]
)
def test_a_command_is_loaded_only_if_it_is_asked_for(arguments: list[str], loads_demo: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = done.stdout.splitlines()[-1]
    assert ("'lambda_pool.cli.demo'" in loaded) is loads_demo
    assert "lambda_pool.testing" not in loaded
    assert "lambda_pool.pool" not in loaded


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = [sys.executable, "-c", "import sys; from lambda_pool.cli import main; sys.exit(main())"]
    # More text than a pipe holds, so that the writer surely meets the closed end.
    shell = subprocess.run(
        ["bash", "-c", '(sleep 0.2; exec "$@") | true; exit "${PIPESTATUS[0]}"', "bash", *command, "demo", "--source"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (shell.returncode, shell.stderr) == (141, "")
