"""A URL that names several hosts, against real servers."""

import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest

from lambda_pool import ConnectError, DeadlineExceeded, Pool
from lambda_pool.api import core_of
from lambda_pool.auth.base import Credentials
from lambda_pool.cli.doctor import diagnose
from lambda_pool.endpoints.base import Endpoint, Role
from lambda_pool.events import ConnectFailed, Opened
from lambda_pool.reclaim import cancel
from lambda_pool.secret import Secret
from tests.support.recorder import Recorder

from .conftest import FATES, Pair


def url_of(pair: Pair, *ports: int, more: str = "") -> str:
    hosts = ",".join(f"localhost:{port}" for port in ports)
    return pair.url().replace(f"localhost:{pair.old.port}", hosts) + more


def port_of(pair: Pair, pool: Pool) -> int:
    with pool.connection() as conn, conn.cursor() as cursor:
        cursor.execute("select inet_server_port()" if pair.engine == "postgresql" else "select @@port")
        return int(cursor.fetchone()[0])


@pytest.mark.sampled(2, "starts two servers")
def test_a_dead_host_costs_nothing_but_the_first_try(pair: Pair) -> None:
    seen = Recorder()
    pool = Pool(url_of(pair, pair.old.port, pair.new.port), observers=[seen])
    pair.old.kill()
    assert port_of(pair, pool) == pair.new.port
    [failed] = seen.of(ConnectFailed)
    assert (failed.retrying, failed.attempt) == (True, 1)
    pool.close()
    # From now on the host that answered is asked first.
    assert port_of(pair, pool) == pair.new.port
    assert [event.attempt for event in seen.of(Opened)] == [2, 1]
    pool.close()


@pytest.mark.sampled(1 / 2, "starts two servers")
def test_a_silent_host_leaves_the_next_one_its_share_of_the_time(pair: Pair) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        pool = Pool(url_of(pair, port, pair.old.port), observers=(), timeout=2.0, connect_timeout=30.0)
        start = time.monotonic()
        assert port_of(pair, pool) == pair.old.port
        assert time.monotonic() - start < 2.0
        pool.close()


@pytest.mark.parametrize("fate", FATES)
@pytest.mark.sampled(1, "starts two servers")
def test_run_goes_on_at_the_other_host(pair: Pair, fate: str) -> None:
    pool = Pool(url_of(pair, pair.old.port, pair.new.port), observers=(), timeout=20.0)
    tries: list[Any] = []

    def work(conn: Any) -> int:
        tries.append(conn)
        pair.insert(conn, 1)
        if len(tries) == 1 and fate != "demoted":  # an open transaction would be allowed to end
            pair.fail_over(fate)
        return pair.insert(conn, 2)

    assert port_of(pair, pool) == pair.old.port
    if fate == "demoted":
        pair.fail_over(fate)
    assert pool.run(work) == pair.new.port
    assert [row for row in pair.rows() if row] == [1, 2]
    pool.close()


@pytest.mark.parametrize(
    ("wanted", "standby_first", "standby"),
    [("read-write", True, False), ("primary", True, False), ("standby", False, True), ("read-only", False, True)],
)
@pytest.mark.sampled(1, "starts two servers")
def test_the_host_that_the_session_is_wanted_of(
    pg_pair: Pair, wanted: str, *, standby_first: bool, standby: bool
) -> None:
    ports = (pg_pair.new.port, pg_pair.old.port) if standby_first else (pg_pair.old.port, pg_pair.new.port)
    pool = Pool(url_of(pg_pair, *ports, more=f"&target_session_attrs={wanted}"), observers=())
    assert port_of(pg_pair, pool) == (pg_pair.new.port if standby else pg_pair.old.port)
    pool.close()


@pytest.mark.sampled(1, "starts two servers")
def test_when_none_answers(pair: Pair) -> None:
    with socket.socket() as taken, socket.socket() as other:
        ports = []
        for each in (taken, other):  # bound, but not listening
            each.bind(("127.0.0.1", 0))
            ports.append(each.getsockname()[1])
        pool = Pool(url_of(pair, *ports), observers=(), timeout=0.5)
        with pytest.raises(ConnectError, match=r"localhost:\d+ \(one of 2 hosts\): .*refused"):
            port_of(pair, pool)


@pytest.mark.sampled(1, "starts two servers")
def test_each_host_has_its_own_login(pair: Pair) -> None:
    """A token is signed for one host and port."""

    class Signer:
        needs_tls = False

        def __init__(self) -> None:
            self.asked: list[int | None] = []

        def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
            self.asked.append(endpoint.port)
            return Credentials("app", Secret("app"))

        def rejected(self, credentials: Credentials) -> None:
            raise AssertionError

        def forget(self) -> None:
            pass

    signer = Signer()
    pair.old.kill()
    url = url_of(pair, pair.old.port, pair.new.port).replace("app:app@", "app@")
    pool = Pool(url, auth=signer, observers=())
    assert port_of(pair, pool) == pair.new.port
    assert signer.asked == [pair.old.port, pair.new.port]
    pool.close()


@pytest.mark.sampled(1, "starts two servers")
def test_a_statement_is_ended_where_it_runs(my_pair: Pair) -> None:
    """The pool has moved on in the meantime, and on the other host the session's number belongs to somebody else."""
    pool = Pool(url_of(my_pair, my_pair.old.port, my_pair.new.port), observers=())
    core = core_of(pool)
    ended: list[bool] = []

    def end() -> None:
        [entry] = core.state.entries
        core.connector.endpoint.failed(entry.endpoint)
        ended.append(cancel(core, entry, entry.link, 5.0))

    with suppress(DeadlineExceeded), pool.connection() as conn, conn.cursor() as cursor:
        killer = threading.Timer(0.3, end)
        killer.start()
        cursor.execute("select sleep(20)")
    killer.join()
    assert ended == [True]
    pool.close()


@pytest.mark.sampled(1, "starts two servers")
def test_the_doctor_goes_on_to_the_one_that_answers(pair: Pair) -> None:
    pool = Pool(url_of(pair, pair.old.port, pair.new.port), observers=())
    assert diagnose(pool)["ok"]
    pair.old.kill()
    report = diagnose(pool)
    steps = {step["step"]: step for step in report["steps"]}
    assert steps["endpoint"]["status"] == "warning"
    assert "localhost does not answer" in steps["endpoint"]["advice"][0]
    assert f"localhost:{pair.old.port},localhost:{pair.new.port}" in steps["config"]["detail"]
    assert steps["login"]["status"] == "ok"
    pool.close()


def test_many_environments_share_them_where_the_url_says_so() -> None:
    def first(url: str, **options: Any) -> str:
        return core_of(Pool(url, **options)).connector.endpoint.resolve(Role.WRITER, 0.0).host

    url = "postgresql://app@one,two/d"
    assert {first(f"{url}?load_balance_hosts=random") for _ in range(64)} == {"one", "two"}  # 1 in 2 ** 63 fails
    assert {first(url, connect_args={"load_balance_hosts": "random"}) for _ in range(64)} == {"one", "two"}
    assert {first(f"{url}?load_balance_hosts=disable") for _ in range(64)} == {"one"}
