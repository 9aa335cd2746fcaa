"""`lambda-pool top` on real servers."""

from __future__ import annotations

import re
from typing import Any

import pytest

import lambda_pool
from lambda_pool.cli import main
from lambda_pool.cli.terminal import duration, table
from lambda_pool.testing import MariaDbServer, PostgresServer

Capture = pytest.CaptureFixture[str]


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("postgres" if request.param == "postgresql" else "mariadb")


@pytest.mark.sampled(1, "a second a case")
def test_connections_and_the_longest_transactions_first(server: Any, capsys: Capture) -> None:
    pool = lambda_pool.Pool(server.url(), name="top-test", max_size=3)
    begin, sleep = "begin", "select pg_sleep(0.2)"
    if isinstance(server, MariaDbServer):  # which knows the beginning of a transaction by the second
        begin, sleep = "start transaction with consistent snapshot", "select sleep(1.1)"
    with pool.connection() as first, pool.connection() as second, pool.connection() as idle:
        with idle.cursor() as cursor:
            cursor.execute("select 1")
        idle.rollback()
        for conn in (first, second):
            with conn.cursor() as cursor:
                cursor.execute(begin)
                cursor.execute(sleep)
        ids = [conn.info.backend_pid if hasattr(conn, "info") else conn.thread_id() for conn in (first, second)]
        assert main(["top", server.url(), "--once"]) == 0
        for conn in (first, second):
            conn.rollback()
    pool.close()
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert " connections " in lines[0]
    user = "postgres" if isinstance(server, PostgresServer) else "root"
    kept, oldest, at_work, others = re.fullmatch(
        rf"{user}: (\d+) kept idle, the oldest for (.*); (\d+) at work; (\d+) of others", lines[1]
    ).groups()  # type: ignore[union-attr]
    assert (int(kept) >= 1, int(at_work) >= 2, int(others)) == (True, True, 0)
    assert oldest
    assert "idle in transaction" in out
    listed = [int(line.split()[0]) for line in lines if line.split() and line.split()[0].isdigit()]
    assert [number for number in listed if number in ids] == ids
    if isinstance(server, PostgresServer):
        assert "top-test" in out
        assert "select pg_sleep(0.2)" in out
    assert "lambda-pool top" not in out


def test_whose_sessions_are_the_fleets_can_be_said(postgres: PostgresServer, capsys: Capture) -> None:
    postgres.execute("create role frozen login password 'frozen'")
    pool = lambda_pool.Pool(postgres.url("frozen", "frozen"))
    with pool.connection():
        pass
    assert main(["top", postgres.url(), "--once", "--user", "frozen"]) == 0
    pool.close()
    assert re.search(
        r"^frozen: 1 kept idle, the oldest for .* m?s; 0 at work; \d+ of others$", capsys.readouterr().out, re.M
    )


def test_statements_can_be_left_out(postgres: PostgresServer, capsys: Capture) -> None:
    pool = lambda_pool.Pool(postgres.url())
    with pool.connection() as conn:
        conn.execute("select 'private'")
        assert main(["top", postgres.url(), "--once", "--no-statements"]) == 0
    pool.close()
    assert "private" not in capsys.readouterr().out


def test_a_server_that_does_not_answer(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMBDA_POOL_TIMEOUT", "1")
    assert main(["top", "postgresql://app:secret@127.0.0.1:1/app?sslmode=disable", "--once"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("lambda-pool top: ")
    assert "secret" not in captured.err


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "soon"])
def test_a_wrong_interval(interval: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        main(["top", "postgresql://x/y", f"--interval={interval}"])
    assert "--interval" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.000_08, "0.08 ms"),
        (0.001_23, "1.2 ms"),
        (0.085, "85 ms"),
        (0.44, "0.4 s"),
        (5, "5 s"),
        (9.96, "10.0 s"),
        (12.9, "13 s"),
        (59.7, "1 min"),
        (200, "3 min 20 s"),
        (900.0, "15 min"),
        (18_120, "5 h 2 min"),
        (28_800, "8 h"),
        (4 * 86_400 + 3_600, "4 d 1 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_own_prefix_names_the_server(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("SHOP_URL", postgres.url())
    assert main(["top", "--once", "--prefix", "SHOP_"]) == 0
    assert " connections " in capsys.readouterr().out


def test_what_a_server_sends_cannot_steer_the_terminal() -> None:
    assert table(["NAME"], [["\x1b[2Jevil"]], 80, {0}) == ["NAME", "?[2Jevil"]
    assert table(["NAME"], [["x" * 100]], 10, {0})[1] == "x" * 10


def test_a_database_whose_encoding_is_not_known(postgres: PostgresServer, capsys: Capture) -> None:
    """psycopg gives bytes there, which nobody wants to see as such."""
    postgres.execute("create database top_ascii encoding 'SQL_ASCII' locale 'C' template template0")
    pool = lambda_pool.Pool(postgres.url(database="top_ascii"), name="top-ascii", observers=())
    try:
        with pool.connection() as conn:
            conn.execute("select 42 as seen")
            assert main(["top", postgres.url(database="top_ascii"), "--once"]) == 0
        pool.close()
    finally:
        postgres.execute("drop database top_ascii with (force)")
    out = capsys.readouterr().out
    assert "top-ascii" in out
    assert "select 42 as seen" in out
    assert "b'" not in out
