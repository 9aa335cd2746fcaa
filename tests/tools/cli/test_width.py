"""Every command fits 80 columns, on a terminal and elsewhere. Colours are for terminals, and not with NO_COLOR."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence

import psycopg
import pytest

from lambda_pool.metrics.panels import QUERIES
from lambda_pool.testing import PostgresServer
from tests.tools.cli.screen import CLI, Screen

PLAN = ["plan", "--max-connections", "200", "--environments", "60"]
PLANS = [
    PLAN,
    [*PLAN, "--rate", "150", "--query-time", "0.05", "--cores", "4", "--reserved-concurrency", "100"],
    [*PLAN, "--workers", "16", "--max-size", "8", "--account-concurrency", "10000"],
    [*PLAN, "--proxy-percent", "90", "--rate", "123456.789", "--query-time", "1.25", "--others", "150"],
    ["plan", "--max-connections", "5", "--environments", "1000000", "--others", "5"],
    ["plan", "--instance", "db.t4g.micro", "--environments", "50"],
    ["plan", "--instance", "db.r7g.16xlarge", "--engine", "aurora-mysql", "--environments", "50"],
]
NOBODY = "postgresql://app:secret@127.0.0.1:1/a_database_with_a_name_that_is_rather_long?sslmode=require"


def off_terminal(arguments: Sequence[str]) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    done = subprocess.run([CLI, *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.stdout, done.stderr
    return done.stdout.splitlines()


def on_terminal(arguments: Sequence[str]) -> list[str]:
    screen = Screen(50, 80, *arguments)
    screen.end(seconds=120)
    return screen.lines()


def fits(line: str) -> bool:
    """A name without a blank stays whole, to be copied."""
    return len(line) <= 80 or " " not in line.strip()


@pytest.fixture
def busy(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server with an open transaction, all of whose names are long."""
    name = "a_user_with_a_name_as_long_as_postgresql_takes_it_to_be_really"
    postgres.execute(f"drop role if exists {name}")
    postgres.execute(f"create role {name} login password 'secret'")
    url = postgres.url(user=name, password="secret", application_name="lambda_pool:" + "orders-" * 8)
    with contextlib.closing(psycopg.connect(url)) as conn:
        conn.execute(b"select 'a statement that is longer than the terminal is wide'" + b", 'and longer still'" * 9)
        yield postgres


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("arguments", PLANS, ids=" ".join)
def test_plan_fits(arguments: list[str]) -> None:
    for lines in (off_terminal(arguments), on_terminal(arguments)):
        assert max(map(len, lines)) <= 80
        assert any(line.startswith(("Reserved concurrency", "MaxExecutionEnvironments")) for line in lines)


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("connections", ["100", "20000"])
def test_a_simulation_fits(connections: str) -> None:
    arguments = ["plan", "--max-connections", connections, "--environments", "500", "--running", "40", "--simulate"]
    for lines in (off_terminal(arguments), on_terminal(arguments)):
        assert max(map(len, lines)) <= 80
        assert any(line.startswith("Simulated: ") for line in lines)


def test_the_dashboards_queries_fit_and_stay_what_they_are() -> None:
    arguments = ["dashboard", "--function", "orders", "--pool", "orders", "--format", "queries"]
    for lines in (off_terminal(arguments), on_terminal(arguments)):
        assert max(map(len, lines)) <= 80
        printed = " ".join(" ".join(line for line in lines if not line.startswith("#")).split())
        for query in QUERIES:
            assert " ".join(query.text.partition("|")[2].split()) in printed


def test_top_fits(busy: PostgresServer) -> None:
    for lines in (off_terminal(["top", "--once", busy.url()]), on_terminal(["top", "--once", busy.url()])):
        assert max(map(len, lines)) <= 80
        assert any(line.startswith("    select 'a statement that is longer") and line.endswith("…") for line in lines)
        assert any("idle in" in line and "a_user" in line and "lambda" in line for line in lines)
        # Nothing of a name is lost: its parts stand below each other.
        [start] = [number for number, line in enumerate(lines) if line.startswith("APPLICATION")]
        end = lines[start].index("STATE")
        assert ("lambda_pool:" + "orders-" * 8)[:63] in "".join(line[:end].strip() for line in lines[start:])


def test_doctor_fits_when_all_is_well(busy: PostgresServer) -> None:
    for lines in (off_terminal(["doctor", busy.url()]), on_terminal(["doctor", busy.url()])):
        assert "everything works" in lines
        assert all(map(fits, lines))


def test_doctor_fits_when_something_is_wrong() -> None:
    for lines in (off_terminal(["doctor", NOBODY]), on_terminal(["doctor", NOBODY])):
        assert any(line.startswith("failed   tcp: ") for line in lines)
        assert all(map(fits, lines))


@pytest.mark.sampled(1 / 3, "12 s")
@pytest.mark.runtime
@pytest.mark.usefixtures("lambda_rie")
def test_demo_fits() -> None:
    lines = on_terminal(["demo", "--quick"])
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("all ") for line in lines)
    assert any(line.startswith("[6/6] 20 warm invocations") for line in lines)


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("command", ["", "demo", "doctor", "top", "plan", "dashboard"])
def test_help_fits(command: str) -> None:
    arguments = [command, "--help"] if command else ["--help"]
    for lines in (off_terminal(arguments), on_terminal(arguments)):
        assert max(map(len, lines)) <= 80


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize(
    "arguments",
    [
        ["top", NOBODY],
        ["plan"],
        ["plan", "--live", "--url", NOBODY, "--environments", "1"],
        ["plan", "--max-connections", "9", "--rate", "5", "--duration", "inf"],
        ["doctor", "--auth", "iam", "--secret-id", "orders"],
        ["dashboard", "--function", "a function's name with spaces and more", "--pool", "orders"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_fits(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_TIMEOUT", "1")
    lines = on_terminal(arguments)
    assert any(line.startswith(f"lambda-pool {arguments[0]}: ") for line in lines)
    assert max(map(len, lines)) <= 80


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("arguments", [PLANS[0], ["doctor", NOBODY]], ids=["plan", "doctor"])
def test_colour_is_for_terminals(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def coloured() -> bool:
        screen = Screen(50, 80, *arguments)
        screen.end()
        return "\x1b" in screen.text

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured()
    assert not any("\x1b" in line for line in off_terminal(arguments))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured()


def test_a_slow_command_says_what_it_waits_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/app"
        screen = Screen(24, 80, "doctor", "--timeout", "2", url)
        screen.read_until("tls …")
        screen.end()
