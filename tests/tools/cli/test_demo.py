"""The demo as a user runs it, shortened: real servers, the genuine runtime, and the claims of its table."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lambda_pool import crowding
from lambda_pool.cli.demo.script import QUICK, steps
from lambda_pool.testing.processes import descendants, wait_gone

pytestmark = [pytest.mark.runtime, pytest.mark.usefixtures("lambda_rie")]

COMMAND = [sys.executable, "-c", "import sys; from lambda_pool.cli import main; sys.exit(main())", "demo", "--quick"]
TIMEOUT = 120.0
COLD, WARM, KILLED, HALF_WAY, RESTARTED, LONG = (step.title for step in steps(QUICK))


@dataclass
class Demo:
    """One run with --json."""

    engine: str
    seconds: float
    code: int
    progress: str
    answer: dict[str, Any]

    def total(self, way: str) -> dict[str, Any]:
        """A way's sums."""
        figures: dict[str, Any] = self.answer["ways"][way]["total"]
        return figures

    def column(self, way: str, figure: str) -> list[Any]:
        """One figure of a way in each of the six steps."""
        found = self.answer["ways"][way]["steps"]
        return [found[title][figure] for title in (COLD, WARM, KILLED, HALF_WAY, RESTARTED, LONG)]


AGAIN = pytest.mark.slow("the same day on the other engine")


@pytest.fixture(scope="module", params=["postgresql", pytest.param("mysql", marks=AGAIN)])
def played(request: pytest.FixtureRequest, lambda_rie: Path) -> Demo:
    """The demo's figures."""
    began = time.monotonic()
    done = subprocess.run(
        [*COMMAND, "--json", "--engine", request.param], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.stdout, done.stderr
    return Demo(request.param, time.monotonic() - began, done.returncode, done.stderr, json.loads(done.stdout))


@pytest.mark.sampled(1 / 3, "14 s")
def test_ours_makes_no_error(played: Demo) -> None:
    assert played.column("with_lambda_pool", "errors") == [0] * 6, played.total("with_lambda_pool")["reasons"]
    assert played.code == 0


@pytest.mark.sampled(1 / 3, "9 s")
def test_ours_keeps_one_backend_and_opens_one_for_each_that_the_server_ended(played: Demo) -> None:
    assert played.column("with_lambda_pool", "connections") == [1, 0, QUICK.kills, 0, 1, 0]
    assert played.column("with_lambda_pool", "sessions_ended_by_server") == [0, 0, QUICK.kills, 0, 1, 0]


def test_ours_sends_nothing_of_its_own_while_warm(played: Demo) -> None:
    extra = played.column("with_lambda_pool", "extra_statements")
    # In two statements, a connection asks every 30 s how crowded its server is: only a busy machine gets there.
    most = 2 * int(played.seconds / crowding.AGAIN)
    assert max(extra[1], extra[5]) <= most


def test_ours_is_never_frozen_in_a_transaction(played: Demo) -> None:
    assert played.total("with_lambda_pool")["frozen_in_transaction"] == 0


def test_the_bare_global_fails_once_for_each_session_that_the_server_ended(played: Demo) -> None:
    failed = played.column("bare_global", "failed_invocations")
    assert (failed[0], failed[1], failed[2], failed[4], failed[5]) == (0, 0, QUICK.kills, 1, 0)


def test_the_bare_global_saves_orders_that_failed_and_is_frozen_in_a_transaction(played: Demo) -> None:
    bare = played.column("bare_global", "stray_orders")
    # PostgreSQL refuses everything after the first statement that it refused; MySQL goes on, and saves every half.
    assert bare[3] == {"postgresql": 1, "mysql": 2 * QUICK.failures}[played.engine]
    assert played.column("bare_global", "frozen_in_transaction")[3] == 2 * QUICK.failures


def test_the_bare_global_stays_in_the_aborted_transaction(played: Demo) -> None:
    aborted = [text for text in played.total("bare_global")["reasons"] if "current transaction is aborted" in text]
    assert len(aborted) == {"postgresql": 1, "mysql": 0}[played.engine]


def test_connecting_each_time_connects_each_time(played: Demo) -> None:
    total = played.total("connect_each_time")
    assert total["errors"] == 0
    assert total["connections"] == total["invocations"]
    assert played.total("with_lambda_pool")["invocations"] == total["invocations"]


def test_the_closing_sentences_are_those_of_the_figures(played: Demo) -> None:
    bare, each, ours = played.answer["sentences"]
    total = played.total("bare_global")
    assert f"{total['failed_invocations']} of {total['invocations']} invocations" in bare
    assert f"{played.total('connect_each_time')['connections']} connections" in each
    assert f"opened {played.total('with_lambda_pool')['connections']} connections" in ours


def test_progress_has_a_line_for_each_step(played: Demo) -> None:
    lines = played.progress.splitlines()
    assert [line.partition("] ")[2].rstrip("0123456789. s") for line in lines[1:]] == [
        title.rstrip("s") for title in (COLD, WARM, KILLED, HALF_WAY, RESTARTED, LONG)
    ]


def test_a_kill_leaves_nothing_behind() -> None:
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "start the server" in process.stdout.readline()
        started = descendants(process.pid)
        assert len(started) > 3  # the server and the emulators
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 128 + signal.SIGTERM
        assert wait_gone(started, timeout=5.0) == []
