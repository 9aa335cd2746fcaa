"""How every command behaves where it is used badly: one clear line, and an exit code that says which kind of bad."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

import lambda_pool
from lambda_pool import cli
from lambda_pool.cli import database, main
from lambda_pool.testing import FaultyProxy, PostgresServer
from tests.tools.cli.screen import CLI, Screen

PLAN = ["plan", "--max-connections", "100", "--environments", "3"]
NOBODY_THERE = "postgresql://app:hunter2@localhost:1/app"


def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    ours = ("LAMBDA_POOL", "DATABASE_URL", "AWS_", "POWERTOOLS_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent", **changes}
    return subprocess.run(
        [CLI, *arguments], env=environment, capture_output=True, text=True, errors="replace", timeout=60, check=False
    )


@pytest.mark.sampled(9, "many cases")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["top"], "no database URL"),
        (["top", "http://localhost/x"], "must start with postgresql:// or mysql://"),
        *[
            (arguments, f"{arguments[0]}: the URL must start with postgresql:// or mysql://, but 'postgre' does not")
            for arguments in (["top", "postgre://h/d"], ["plan", "postgre://h/d"])
        ],
        (["top", ""], "argument URL: the URL is empty"),
        (["plan", "--url", ""], "argument --url: the URL is empty"),
        (["doctor", ""], "argument URL: the URL is empty"),
        (["top", "--prefix", "SHOP_"], "set SHOP_URL, e.g."),
        (["plan", "--live", "--prefix", "SHOP_"], "set SHOP_URL, e.g."),
        ([*PLAN, "--prefix", "SHOP_"], "--prefix SHOP_ has no effect without --live, a URL or --function"),
        *[
            (arguments, f"lambda-pool {arguments[0]}: could not connect to localhost:1")
            for arguments in (["top", NOBODY_THERE], ["plan", NOBODY_THERE])
        ],
        (["top", "--interval", "soon"], "'soon' is not a number of seconds above 0"),
        (["top", "--interval", "nan"], "'nan' is not a number of seconds above 0"),
        (["top", "--limit", "-1"], "'-1' is not a whole number above 0"),
        (["doctor", "--timeout", "-1"], "'-1' is not a number of seconds above 0"),
        (["doctor", "--auth", "iam"], "--auth needs --url; without it, set LAMBDA_POOL_AUTH in the environment"),
        (["doctor", NOBODY_THERE, "--url", NOBODY_THERE], "argument --url: a URL was given already"),
        (["doctor", "--url", NOBODY_THERE, NOBODY_THERE], "argument URL: a URL was given already"),
        ([*PLAN, "--url", NOBODY_THERE, NOBODY_THERE], "argument URL: a URL was given already"),
        (["plan"], "give --max-connections, or --instance with its class, or --acu"),
        (["plan", "--max-connections", "many"], "'many' is not a whole number"),
        (["plan", "--max-connections", "9", "--rate", "5", "--duration", "inf"], "not a number of environments"),
        ([*PLAN, "--headroom", "2"], "headroom=2.0 is not valid"),
        ([*PLAN, "--chart", "/nonexistent/plan.svg"], "No such file or directory: '/nonexistent/plan.svg'"),
        (["plan", "--max-connections", "9", "--function", "orders"], "give --region, or set AWS_REGION"),
        (["dashboard", "--function", "orders"], "the following arguments are required: --pool"),
        (["dashboard", "--function", "", "--pool", "orders"], "argument --function: it is empty"),
        *[
            ([*command, "--function", function], f"argument --function: {function!r} is not a function's name")
            for command in (["dashboard", "--pool", "p"], ["plan", "--max-connections", "9"])
            for function in (
                "arn:aws:lambda:eu-central-1:123456789012:function:orders",
                "123456789012:function:orders",
                "orders:live",
                "a b",
                "größe",
                "orders\n",
                "x" * 65,
            )
        ],
        (["dashboard", "--function", "f", "--pool", "p", "--topic", "pager"], "'pager' is not an ARN"),
        (["dashboard", "--function", "f", "--pool", "p", "--format", "json"], "--region eu-central-1"),
        (["demo", "--engine", "oracle"], "invalid choice: 'oracle'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(arguments: list[str], says: str) -> None:
    done = run(*arguments, LAMBDA_POOL_TIMEOUT="1")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith(f"lambda-pool {arguments[0]}: ")
    assert says in line
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize("command", ["doctor", "plan", "top"])
def test_a_word_too_many_is_refused_without_its_password(command: str) -> None:
    done = run(command, NOBODY_THERE, NOBODY_THERE)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unrecognized arguments: postgresql://*** (" in done.stderr


@pytest.mark.sampled(3, "many cases")
@pytest.mark.parametrize("option", ["--instance", "--acu", "--chart", "--engine", "--proxy", "--max-connections"])
def test_a_url_in_the_place_of_another_value_is_shown_without_its_password(option: str) -> None:
    done = run(*PLAN[: 1 if option in {"--instance", "--acu"} else None], "--environments", "3", option, NOBODY_THERE)
    assert done.returncode == 2
    assert "hunter2" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_aws_region_says_where_to_ask() -> None:
    done = run("plan", "--max-connections", "9", "--function", "orders", AWS_REGION="eu-central-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "lambda-pool plan: AWS was asked, but did not say: Unable to locate credentials\n"


@pytest.mark.parametrize("command", ["demo", "doctor", "top", "plan", "dashboard"])
def test_every_command_has_help(command: str) -> None:
    done = run(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: lambda-pool {command} ")
    assert "Exit codes: 0 " in done.stdout


@pytest.mark.parametrize(
    "arguments", [PLAN, ["dashboard", "--function", "f", "--pool", "p"], ["demo", "--source"]], ids=lambda a: str(a[0])
)
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [CLI, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert done.returncode == 2
    assert done.stderr == f"lambda-pool {arguments[0]}: [Errno 28] No space left on device\n"


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_output_that_is_closed_does_not_change_the_exit_code(closed: str) -> None:
    for code, arguments in ((0, PLAN), (1, ["plan", "--max-connections", "9", "--environments", "30"]), (2, ["plan"])):
        done = subprocess.run(
            ["sh", "-c", f'"$@" {closed}', "sh", CLI, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr


def test_top_fits_the_screen_and_ends_with_ctrl_c(postgres: PostgresServer) -> None:
    screen = Screen(6, 40, "top", postgres.url(), "--interval", "0.1")
    screen.read_until(r"(?s)(connections.*){3}")
    screen.interrupt()
    assert screen.end() == 130
    views = [view.split("\r\n") for view in screen.text.split("\x1b[H\x1b[J")[1:]]
    assert views
    for view in views[:-1]:
        assert len(view) <= 6
        assert max(map(len, view)) <= 40
    assert "Traceback" not in screen.text
    assert screen.text.splitlines()[-1].endswith("interrupted")


def test_a_terminal_that_is_not_utf_8_gets_question_marks(postgres: PostgresServer) -> None:
    pool = lambda_pool.Pool(postgres.url(), observers=())
    with pool.connection() as conn:
        conn.execute("select 'größe →' as seen")
        top = run("top", postgres.url(), "--once", "--limit", "1000", PYTHONIOENCODING="latin-1")
    pool.close()
    assert (top.returncode, top.stderr) == (0, "")
    assert " ?' as seen" in top.stdout


def test_nor_does_its_line_of_progress_show_escapes(monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    screen = Screen(24, 80, "doctor", postgres.url())
    assert screen.end() == 0
    assert "endpoint ?" in screen.text


def test_ctrl_c_while_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        screen = Screen(24, 80, "top", f"postgresql://app@127.0.0.1:{silent.getsockname()[1]}/app")
        peer, _ = silent.accept()
        screen.interrupt()
        assert screen.end() == 130
        peer.close()
    assert [line for line in screen.lines() if line][-1].endswith("interrupted")
    assert "Traceback" not in screen.text


def test_ctrl_c_before_the_command_has_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupt)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.sampled(1 / 2, "waits for a time-out")
def test_top_ends_when_the_server_falls_silent(interrupted: bool) -> None:
    """A server that hangs acknowledges what is sent to it, so that a driver waits for ever, even after a Ctrl-C."""
    with PostgresServer(tls=False) as server:
        screen = Screen(12, 80, "top", server.url(), "--interval", "0.1")
        screen.read_until(r"(?s)(connections.*){3}")
        server.pause()
        if interrupted:
            time.sleep(0.3)  # until a statement waits
            screen.interrupt()
        code = screen.end(20)
        server.resume()
    said = [line for line in screen.lines() if line][-1]
    assert (code, said.removeprefix("^C")) == (
        (130, "interrupted") if interrupted else (2, "lambda-pool top: the server did not answer in time")
    )
    assert "cancellation" not in screen.text  # psycopg's log


@pytest.mark.sampled(1 / 2, "a second a case")
@pytest.mark.parametrize("engine", ["postgres", "mariadb"])
def test_a_plan_ends_when_the_server_falls_silent(
    engine: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = request.getfixturevalue(engine)
    monkeypatch.setattr(database, "_PATIENCE", 1.3)

    def heard(data: bytes) -> None:
        if b"max_connections" in data:
            proxy.swallow("to_client", new=False)

    with FaultyProxy("127.0.0.1", server.port, listen=lambda _: heard) as proxy:
        url = server.url(port=proxy.port, tls=False, sslmode="disable")
        assert main(["plan", "--environments", "10", "--live", "--url", url]) == 2
    assert capsys.readouterr().err.endswith("lambda-pool plan: the server did not answer in time\n")


def test_the_doctor_writes_for_the_terminal_it_has(postgres: PostgresServer) -> None:
    screen = Screen(24, 60, "doctor", "--url", postgres.url())
    screen.read_until("everything works")
    assert screen.end() == 0
    assert max(len(line) for line in screen.lines() if " " in line.strip()) <= 60
