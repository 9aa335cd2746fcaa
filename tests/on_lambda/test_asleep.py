"""A database that sleeps while nobody is connected: functions wait for it, and a frozen one lets it sleep."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import lambda_pool
from lambda_pool.events import ConnectFailed
from lambda_pool.testing import MariaDbServer, MySqlServer, PostgresServer
from lambda_pool.testing.server import Server
from tests.on_lambda.conftest import FUNCTION, Start
from tests.on_lambda.databases import until
from tests.support.invoked import invoked
from tests.support.recorder import Recorder
from tests.support.sleeper import Sleeper

# The server's timer outlasts an invocation by a margin, which would be most of a test's time.
IMPATIENT = f"import lambda_pool.core.policy\nlambda_pool.core.policy.TIMER_MARGIN = 0.2\n{FUNCTION}"


KINDS: dict[str, Callable[[], Server]] = {
    "postgresql": PostgresServer,
    "mysql": MariaDbServer,
    "genuine_mysql": MySqlServer,
}


@pytest.fixture(scope="module", params=list(KINDS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with KINDS[request.param]() as found:
        yield found


@pytest.fixture
def sleeper(server: Server) -> Iterator[Sleeper]:
    with Sleeper(server) as found:
        yield found


def url_of(server: Server, sleeper: Sleeper) -> str:
    return server.url().replace(f":{server.port}/", f":{sleeper.port}/")


@pytest.mark.sampled(1, "2 s a case")
def test_without_the_option_the_error_says_what_to_set(server: Server, sleeper: Sleeper) -> None:
    pool = lambda_pool.Pool(url_of(server, sleeper), timeout=0.5, connect_timeout=0.3)
    with pytest.raises(lambda_pool.ConnectError, match=r"accepted the connection .*asleep.* Set wake_timeout"):
        pool.connection().__enter__()


@pytest.mark.sampled(1, "a second a case")
def test_of_an_invocation_without_time_for_a_login_nothing_is_said_of_sleep(server: Server, sleeper: Sleeper) -> None:
    pool = lambda_pool.Pool(url_of(server, sleeper))
    end = time.monotonic() + 0.2
    with (
        invoked(lambda: (end - time.monotonic()) * 1000),
        pytest.raises(lambda_pool.DeadlineExceeded, match="no more time") as caught,
    ):
        pool.connection().__enter__()
    assert "asleep" not in str(caught.value)


@pytest.mark.sampled(1, "a second a case")
def test_with_it_a_checkout_waits_until_it_is_awake(server: Server, sleeper: Sleeper) -> None:
    seen = Recorder()
    sleeper.pause = 30.0  # otherwise it may sleep again between two attempts, on a busy machine
    pool = lambda_pool.Pool(
        url_of(server, sleeper), timeout=0.5, connect_timeout=0.3, wake_timeout=30, observers=[seen]
    )
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select 42")
        assert cursor.fetchone() == (42,)
    pool.close()
    assert sleeper.wakes == 1
    assert {event.kind for event in seen.of(ConnectFailed)} == {"resuming"}


@pytest.mark.sampled(1 / 3, "3 s")
def test_a_server_that_says_that_it_starts_is_waited_for() -> None:
    """It first recovers from an archive, and tells this to every client that comes in the meantime."""
    with PostgresServer(extra_config=["restore_command = 'sleep 0.3; false'", "hot_standby = off"]) as server:
        server.stop()
        (server._data / "recovery.signal").touch()
        seen = Recorder()
        pool = lambda_pool.Pool(server.url(), timeout=0.5, wake_timeout=30, observers=[seen])
        starting = threading.Thread(target=server.start)
        starting.start()
        with pool.connection() as conn:
            conn.execute("select 1")
        starting.join()
        pool.close()
    assert any("system is" in event.error for event in seen.of(ConnectFailed))


@pytest.mark.sampled(1 / 2, "7 s a case")
def test_a_frozen_environment_lets_it_sleep_and_wakes_it_again(start: Start, server: Server, sleeper: Sleeper) -> None:
    options: dict[str, Any] = {"session_idle": 1, "wake_timeout": 30, "connect_timeout": 1}
    # The first wake-up is reported as part of the first invocation, which may last long; then a short one follows.
    runtime = start(url_of(server, sleeper), options=options, code=IMPATIENT, timeout=2)
    until(lambda: runtime.invoke({}).error is None, 30)  # two seconds may be too few for the start of a server
    assert not sleeper.asleep
    runtime.freeze()
    until(lambda: sleeper.asleep, 20)
    runtime.thaw()
    until(lambda: runtime.invoke({}).error is None, 30)
    assert sleeper.wakes >= 2
