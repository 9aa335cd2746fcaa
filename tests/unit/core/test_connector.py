"""Where a connect leads to when an endpoint moves, and what a refused login is told. No server, no network."""

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest

import lambda_pool
from lambda_pool import ConfigError, ConnectError, CredentialsError, DeadlineExceeded, EndpointError
from lambda_pool.auth.base import Credentials
from lambda_pool.backoff import backoff
from lambda_pool.endpoints.base import Endpoint, Role
from lambda_pool.engines.base import Failure
from lambda_pool.events import ConnectFailed, EndpointRefreshed
from lambda_pool.secret import Secret
from lambda_pool.testing import FakeDriver, FakeError
from lambda_pool.testing.fakes import FakeEngineConnection
from tests.support.context import LambdaContext
from tests.support.core import Both, entries
from tests.support.invoked import invoked
from tests.support.recorder import Recorder

A, B, C = (Endpoint(f"{name}.example", 5432) for name in "abc")


class Scripted:
    """An endpoint source that keeps an answer until it is told that it failed, and then gives the next one."""

    has_reader = False

    def __init__(self, *script: Endpoint | EndpointError) -> None:
        self.script = list(script)
        self.failures: list[Endpoint] = []

    def resolve(self, role: Role, timeout: float) -> Endpoint:
        answer = self.script[0]
        if isinstance(answer, EndpointError):
            raise answer
        return answer

    def failed(self, endpoint: Endpoint) -> None:
        self.failures.append(endpoint)
        if len(self.script) > 1:
            self.script.pop(0)

    def forget(self) -> None:
        pass


class Login:
    """Gives a password, or what it says is a token."""

    needs_tls = False

    def __init__(self, *, iam: bool) -> None:
        self.iam = iam

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        return Credentials("app", Secret("canary"), iam=self.iam)

    def rejected(self, credentials: Credentials) -> None:
        pass

    def forget(self) -> None:
        pass


class Advisor(Login):
    def hint(self, host: str, user: str) -> str:
        return f"ask the administrator of {host} about {user}"


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def seen() -> Recorder:
    return Recorder()


def borrow(pool: lambda_pool.Pool) -> None:
    with pool.connection():
        pass


def hosts(driver: FakeDriver) -> list[str]:
    return [request.host.partition(".")[0] for request in driver.requests]


class TestMoved:
    @pytest.mark.parametrize("failure", [Failure.OTHER, Failure.UNTRUSTED, Failure.UNREACHABLE, Failure.LOST])
    def test_an_address_that_changed_is_tried_at_once(
        self, driver: FakeDriver, seen: Recorder, failure: Failure
    ) -> None:
        pool = driver.pool(endpoint=Scripted(A, B), observers=[seen])
        driver.fail("connect", FakeError(failure))
        borrow(pool)
        assert hosts(driver) == ["a", "b"]
        [event] = seen.of(EndpointRefreshed)
        assert event.host == "b.example"
        assert [failed.retrying for failed in seen.of(ConnectFailed)] == [True]

    def test_one_that_did_not_is_not(self, driver: FakeDriver, seen: Recorder) -> None:
        source = Scripted(A)
        pool = driver.pool(endpoint=source, observers=[seen])
        driver.fail("connect", FakeError(Failure.OTHER, "no such database"))
        with pytest.raises(ConnectError, match="no such database"):
            borrow(pool)
        assert hosts(driver) == ["a"]
        assert source.failures == [A]
        assert seen.of(EndpointRefreshed) == []

    def test_each_address_is_tried_once_only(self, driver: FakeDriver) -> None:
        """A source that goes round in circles must not make a connect go round as fast as it can."""
        pool = driver.pool(endpoint=Scripted(A, B, C, A, B, C, A), timeout=5.0)
        driver.fail("connect", *[FakeError(Failure.OTHER)] * 10)
        with pytest.raises(ConnectError):
            borrow(pool)
        assert hosts(driver) == ["a", "b", "c"]

    @pytest.mark.parametrize("failure", [Failure.TOO_MANY, Failure.REJECTED])
    def test_a_server_that_answers_is_at_its_address(self, driver: FakeDriver, failure: Failure) -> None:
        source = Scripted(A, B)
        pool = driver.pool(endpoint=source)
        driver.fail("connect", FakeError(failure))
        if failure is Failure.REJECTED:
            with pytest.raises(CredentialsError):
                borrow(pool)
        else:
            borrow(pool)
        assert set(hosts(driver)) == {"a"}
        assert source.failures == []

    def test_a_source_that_no_longer_knows_leaves_the_first_error(self, driver: FakeDriver) -> None:
        pool = driver.pool(endpoint=Scripted(A, EndpointError("gone")))
        driver.fail("connect", FakeError(Failure.OTHER, "no such database"))
        with pytest.raises(ConnectError, match="no such database"):
            borrow(pool)

    def test_a_move_that_no_connect_ran_into_is_told_too(self, driver: FakeDriver, seen: Recorder) -> None:
        source = Scripted(A, B)
        pool = driver.pool(endpoint=source, observers=[seen])
        borrow(pool)
        driver.fail("execute", FakeError(Failure.READ_ONLY))
        with pytest.raises(FakeError), pool.connection() as conn:
            conn.execute("insert")
        assert source.failures == [A]
        borrow(pool)
        assert hosts(driver) == ["a", "b"]
        assert [event.host for event in seen.of(EndpointRefreshed)] == ["b.example"]


class Answering:
    """A source that gives whatever it is made with, after some seconds."""

    needs_tls = has_reader = False

    def __init__(self, answer: object, seconds: float = 0.0) -> None:
        self.answer = answer
        self.seconds = seconds

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Any:
        time.sleep(self.seconds)
        return self.answer

    def resolve(self, role: Role, timeout: float) -> Any:
        time.sleep(self.seconds)
        return self.answer

    def rejected(self, credentials: Credentials) -> None:
        pass

    def failed(self, endpoint: Endpoint) -> None:
        pass

    def forget(self) -> None:
        pass

    def __repr__(self) -> str:
        return f"Answering({self.answer!r})"


class TestOddSources:
    """Sources of the user's own: what is wrong with them is said of them, not of the server or of lambda_pool."""

    @pytest.mark.parametrize("answer", [None, ("app", "canary"), Credentials("app", "canary"), A])  # type: ignore[arg-type]
    def test_credentials_that_are_none(self, driver: FakeDriver, seen: Recorder, answer: object) -> None:
        pool = driver.pool(auth=Answering(answer), observers=[seen])
        with pytest.raises(ConfigError, match=r"Answering gave .*(must give Credentials|not wrapped)") as caught:
            borrow(pool)
        assert "canary" not in str(caught.value)
        assert driver.requests == []
        assert pool.stats().size == 0
        assert [event.kind for event in seen.of(ConnectFailed)] == ["ConfigError"]

    @pytest.mark.parametrize("answer", [(None, Secret("canary")), ("app", Secret(None)), ("app", Secret(b"canary"))])  # type: ignore[arg-type]
    def test_credentials_that_are_not_text(self, driver: FakeDriver, answer: tuple[Any, Any]) -> None:
        """As from a variable that is not set."""
        with pytest.raises(ConfigError, match=r"Answering gave a user or a password that is not text") as caught:
            borrow(driver.pool(auth=Answering(Credentials(*answer))))
        assert "canary" not in str(caught.value)
        assert driver.requests == []

    def test_a_host_that_is_not_text(self, driver: FakeDriver) -> None:
        with pytest.raises(ConfigError, match=r"Answering gave a host that is not text"):
            borrow(driver.pool(endpoint=Answering(Endpoint(None, 5432))))  # type: ignore[arg-type]
        assert driver.requests == []

    @pytest.mark.parametrize("answer", [None, "a.example", ("a.example", 5432), Credentials("app", None)])
    def test_an_endpoint_that_is_none(self, driver: FakeDriver, answer: object) -> None:
        with pytest.raises(ConfigError, match=r"Answering gave .* must give Endpoint"):
            borrow(driver.pool(endpoint=Answering(answer)))

    def test_one_that_takes_all_the_time(self, driver: FakeDriver) -> None:
        """The server, which nobody asked, is not said to be asleep."""
        cases: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"auth": Answering(Credentials("app", None), 0.02)}, CredentialsError),
            ({"endpoint": Answering(A, 0.02)}, EndpointError),
        ]
        for source, error in cases:
            pool = driver.pool(timeout=0.01, **source)
            with pytest.raises(error, match=r"Answering answered only after 0.0 s, which left no time to connect"):
                borrow(pool)
            assert pool.stats().size == 0
        assert driver.requests == []

    def test_one_that_takes_all_that_the_invocation_has(self, driver: FakeDriver) -> None:
        pool = driver.pool(auth=Answering(Credentials("app", None), 0.3))

        @pool.handler
        def handler(event: Any, context: Any, conn: Any) -> None: ...

        with pytest.raises(DeadlineExceeded, match="answered only after"):
            handler({}, LambdaContext(300))  # of which a tenth of a second is kept for the answer


@pytest.mark.parametrize("port", [3306, 5432, 6432])
def test_a_server_without_an_answer_at_the_other_engines_port(driver: FakeDriver, port: int) -> None:
    """It is not said to be asleep."""
    driver.fail("connect", *[FakeError(Failure.RESUMING, "no answer in time")] * 100)
    with pytest.raises(ConnectError) as caught:
        borrow(driver.pool(f"postgresql://app@db.example:{port}/orders", timeout=0.3))
    other = f"Port {port} is usually for mysql://, but the URL begins with postgresql://: change one of them"
    assert (other in str(caught.value)) is (port == 3306)
    assert ("asleep" in str(caught.value)) is (port != 3306)


class TestRefusedLogin:
    def refused(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture, **arguments: Any) -> str:
        caplog.set_level(logging.DEBUG)
        driver.fail("connect", FakeError(Failure.REJECTED, "password authentication failed"))
        with pytest.raises(CredentialsError) as caught:
            borrow(driver.pool(**arguments))
        assert "password authentication failed" in str(caught.value)
        assert "canary" not in str(caught.value) + caplog.text
        return str(caught.value)

    def test_what_a_users_own_source_says_of_itself_is_not_shown(
        self, driver: FakeDriver, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It may hold its password."""
        text = self.refused(driver, caplog, auth=Answering(Credentials("app", Secret("secret"), host="canary")))
        assert "(user 'app', Answering)" in text

    def test_a_password_where_only_iam_is_allowed(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        source = Scripted(A.replace(iam=True))
        text = self.refused(driver, caplog, endpoint=source, auth=Advisor(iam=False))
        assert "only IAM logins are accepted" in text
        assert "LAMBDA_POOL_AUTH=iam" in text
        assert "administrator" not in text
        assert source.failures == [A.replace(iam=True)]

    def test_a_token_where_iam_is_off(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        source = Scripted(A.replace(iam=False))
        text = self.refused(driver, caplog, endpoint=source, auth=Advisor(iam=True))
        assert "IAM logins are not enabled" in text
        assert "enable IAM database authentication" in text
        assert source.failures == [A.replace(iam=False)]

    @pytest.mark.parametrize(("iam", "said"), [(True, True), (False, False), (True, None), (False, None)])
    def test_elsewhere_the_credentials_advise(
        self, driver: FakeDriver, caplog: pytest.LogCaptureFixture, iam: bool, said: bool | None
    ) -> None:
        source = Scripted(A.replace(iam=said))
        text = self.refused(driver, caplog, endpoint=source, auth=Advisor(iam=iam))
        assert text.endswith("). ask the administrator of a.example about app")
        assert source.failures == []

    def test_those_without_advice(self, driver: FakeDriver, caplog: pytest.LogCaptureFixture) -> None:
        text = self.refused(driver, caplog, endpoint=Scripted(A), auth=Login(iam=False))
        assert text.endswith(")")

    def test_what_the_api_said_is_no_reason_to_refuse(self, driver: FakeDriver) -> None:
        """It may be an hour old: the login is tried all the same, and if the server takes it, it was right."""
        for iam in (True, False):
            borrow(driver.pool(endpoint=Scripted(A.replace(iam=not iam)), auth=Login(iam=iam)))

    def test_one_that_is_always_cached_is_refreshed_once(self, driver: FakeDriver) -> None:
        rejected: list[Credentials] = []

        class Stubborn(Login):
            def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
                return super().credentials(endpoint, user, timeout).replace(cached=True)

            def rejected(self, credentials: Credentials) -> None:
                rejected.append(credentials)

        driver.fail("connect", *[FakeError(Failure.REJECTED)] * 5)
        with pytest.raises(CredentialsError):
            borrow(driver.pool(endpoint=Scripted(A), auth=Stubborn(iam=False)))
        assert len(driver.requests) == len(rejected) == 2


class TestTime:
    """An invocation that ends soon bounds a single attempt and a single ping too."""

    @pytest.fixture
    def pool(self, driver: FakeDriver) -> lambda_pool.Pool:
        return driver.pool(timeout=60.0, connect_timeout=60.0, ping_timeout=60.0, ping_after=0)

    @pytest.fixture
    def in_a_hurry(self) -> Iterator[None]:
        with invoked(lambda: 1000):
            yield

    def test_an_attempt_is_bounded_by_what_is_left(
        self, pool: lambda_pool.Pool, driver: FakeDriver, in_a_hurry: None
    ) -> None:
        borrow(pool)
        assert 0.5 < driver.requests[0].timeout <= 0.9

    def test_a_ping_is_bounded_by_what_is_left(
        self, pool: lambda_pool.Pool, driver: FakeDriver, in_a_hurry: None
    ) -> None:
        borrow(pool)
        allowed: list[float] = []
        driver.links[0].ping = allowed.append  # type: ignore[method-assign, assignment]
        borrow(pool)
        assert len(allowed) == 1
        assert 0.5 < allowed[0] <= 0.9

    def test_begin_is_bounded_as_a_ping_only_where_a_ping_would_help(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        allowed: list[float] = []
        monkeypatch.setattr(FakeEngineConnection, "begin", lambda link, **how: allowed.append(how["timeout"]))
        pool = driver.pool(timeout=60.0, ping_timeout=0.5)
        pool.run(lambda conn: None)
        pool.run(lambda conn: None)
        assert 59 < allowed[0] <= 60
        assert allowed[1] == 0.5

    def test_a_begin_that_is_not_answered_in_time_is_said(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def too_late(link: FakeEngineConnection, **how: Any) -> None:
            time.sleep(how["timeout"])
            link.kill()
            raise FakeError(Failure.LOST)

        monkeypatch.setattr(FakeEngineConnection, "begin", too_late)
        pool = driver.pool(timeout=0.05)
        with pytest.raises(ConnectError, match="did not answer what is asked before a connection is lent within"):
            pool.run(lambda conn: None)
        assert pool.stats().size == 0


def test_a_long_answer_of_the_server_is_cut(driver: FakeDriver) -> None:
    driver.fail("connect", FakeError(Failure.OTHER, "x" * 5_000))
    with pytest.raises(ConnectError, match=r": x{500}(?!x)"):
        borrow(driver.pool())


def test_no_pause_between_two_attempts_is_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there would be few of them within `timeout`."""
    monkeypatch.setattr("lambda_pool.backoff.uniform", lambda: 1.0)
    assert [backoff(attempt) for attempt in (1, 2, 3, 5, 6, 1000)] == [0.05, 0.1, 0.2, 0.8, 1.0, 1.0]


class TestRoles:
    def test_an_idle_one_of_the_other_role_makes_room(self, driver: FakeDriver) -> None:
        pool = driver.pool(endpoint=Both(A, B), max_size=1, timeout=0.2)
        for readonly in (True, False, True):
            with pool.connection(readonly=readonly):
                pass
        assert hosts(driver) == ["b", "a", "b"]
        assert pool.stats().size == 1

    @pytest.mark.parametrize(("kind", "told"), [(Failure.STALE, []), (Failure.SHUTDOWN, [A]), (Failure.READ_ONLY, [A])])
    def test_a_changed_schema_is_no_reason_to_look_an_address_up_again(
        self, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, kind: Failure, told: list[Endpoint]
    ) -> None:
        source, failed = Both(A, B), list[Endpoint]()
        monkeypatch.setattr(source, "failed", failed.append)
        pool = driver.pool(endpoint=source)
        driver.fail("execute", FakeError(kind))
        with pytest.raises(FakeError), pool.connection() as conn:
            conn.execute("select 1")
        assert failed == told

    def test_each_transaction_goes_where_it_belongs(self, driver: FakeDriver) -> None:
        where = {"a": "writer", "b": "reader"}

        def led_to(conn: Any) -> str:
            return where[hosts(driver)[conn.number]]

        pool = driver.pool(endpoint=Both(A, B), max_size=2)
        for _ in range(2):
            with pool.connection() as conn:
                assert led_to(conn) == "writer"
            with pool.connection(readonly=True) as conn:
                assert led_to(conn) == "reader"
            assert pool.run(led_to) == "writer"
            assert pool.run(led_to, readonly=True) == "reader"
        assert hosts(driver) == ["a", "b"]


class TestPooled:
    def test_what_the_driver_is_told(self, driver: FakeDriver) -> None:
        borrow(driver.pool("postgresql://fake@fake.example/fake?pooled=true"))
        borrow(driver.pool(endpoint=Scripted(A.replace(proxy=True))))
        borrow(driver.pool(endpoint=Scripted(A)))
        borrow(driver.pool("postgresql://fake@orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com/fake"))
        assert [request.pooled for request in driver.requests] == [True, True, False, True]

    def test_a_proxy_that_only_the_secret_names(self, driver: FakeDriver) -> None:
        class Vault(Login):
            host = "orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com"

            def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
                return Credentials("app", Secret("canary"), host=self.host)

        class Elsewhere(Vault):
            host = "db.example"

        pools = [driver.pool("postgresql:///orders", auth=auth(iam=False)) for auth in (Vault, Elsewhere)]
        for pool in pools:
            borrow(pool)
        assert [request.pooled for request in driver.requests] == [True, False]
        assert [entries(pool)[0].endpoint.proxy for pool in pools] == [True, False]
        with pytest.raises(ConfigError, match=r"reset='session'.*Leave reset out"):
            borrow(driver.pool("postgresql:///orders", auth=Vault(iam=False), reset="session"))

    def test_a_proxy_before_a_database_with_a_port_of_its_own(self, driver: FakeDriver) -> None:
        """The secret that RDS made for the database names the database's port, which no proxy listens on."""

        class Vault(Login):
            def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
                return Credentials("app", Secret("canary"), host="db.example", port=6543)

        proxy = "orders.proxy-c0ffee123456.eu-central-1.rds.amazonaws.com"
        for host in (proxy, f"{proxy}:5433", "", "reader.example"):
            borrow(driver.pool(f"postgresql://{host}/orders", auth=Vault(iam=False)))
        assert [request.port for request in driver.requests] == [5432, 5433, 6543, 6543]

    def test_a_session_reset_is_refused_as_early_as_possible(self, driver: FakeDriver) -> None:
        with pytest.raises(ConfigError, match=r"reset='session'.*Leave reset out"):
            driver.pool("postgresql://fake@fake.example/fake?pooled=true", reset="session")
        pool = driver.pool(endpoint=Scripted(A.replace(proxy=True)), reset="session")
        with pytest.raises(ConfigError, match=r"reset='session'.*Leave reset out"):
            borrow(pool)
        assert driver.requests == []


def test_an_order_that_the_scripted_driver_could_never_obey_is_refused(driver: FakeDriver) -> None:
    with pytest.raises(ValueError, match=r"no 'conect' that could fail: it must be one of connect, "):
        driver.fail("conect", FakeError(Failure.LOST))
