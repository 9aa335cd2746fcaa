"""SecretsManager: how it reads a secret, its cache, its rotation and its errors."""

import contextlib
import copy
import json
import logging
import pickle
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lambda_pool.auth import secrets as secrets_module
from lambda_pool.auth.base import Auth, Credentials
from lambda_pool.auth.secrets import MAX_AGE, SecretsManager
from lambda_pool.aws.sdk import no_bodies_logged
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.errors import ConfigError, CredentialsError, LambdaPoolError
from tests.support.locks import held_elsewhere
from tests.support.speed import examples

ANYWHERE = Endpoint("")
RDS = {
    "username": "app",
    "password": "pässw0rd/\"'%",
    "engine": "postgres",
    "host": "db.example",
    "port": 5432,
    "dbname": "orders",
}
GOOD = json.dumps({"SecretString": json.dumps(RDS)}).encode()
"""The answer with that secret."""
ARN = "arn:aws:secretsmanager:us-west-2:123456789012:secret:orders-AbCdEf"


class Time:
    """A wall clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def is_an_auth(auth: Auth) -> None:
    """For the type checker: SecretsManager follows the protocol."""


def store(vault: Any, body: object, name: str = "orders") -> str:
    """Create a secret and return its ARN."""
    text = body if isinstance(body, str) else json.dumps(body)
    return str(vault.create_secret(Name=name, SecretString=text)["ARN"])


def stage(vault: Any, body: dict[str, object], stage: str) -> str:
    """Add a version to the secret and return its id."""
    answer = vault.put_secret_value(SecretId="orders", SecretString=json.dumps(body), VersionStages=[stage])
    return str(answer["VersionId"])


def password(found: Credentials) -> str:
    assert found.password is not None
    return found.password.reveal()


# --- what it makes of a secret ----------------------------------------------------------------------------------------


def test_keeps_to_the_protocol() -> None:
    is_an_auth(SecretsManager("orders"))


def test_reads_the_secret_that_rds_writes(vault: Any) -> None:
    store(vault, RDS)
    found = SecretsManager("orders").credentials(ANYWHERE, "", 5.0)
    assert (found.user, password(found), found.cached) == ("app", RDS["password"], False)
    assert (found.host, found.port, found.database) == ("db.example", 5432, "orders")


def test_reads_a_managed_master_secret(vault: Any) -> None:
    store(vault, {"username": "admin", "password": "x"}, "rds!cluster-0a1b2c3d")
    found = SecretsManager("rds!cluster-0a1b2c3d").credentials(ANYWHERE, "", 5.0)
    assert found == Credentials("admin", found.password, pending=True)


def test_the_arn_will_do_and_brings_the_region(vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = store(vault, RDS)
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    assert SecretsManager(arn).credentials(ANYWHERE, "", 5.0).user == "app"
    with pytest.raises(CredentialsError, match=r"no such secret.*in region ap-south-1"):
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)
    assert SecretsManager("orders", region="eu-central-1").credentials(ANYWHERE, "", 5.0).user == "app"


def test_the_secrets_user_beats_the_urls(vault: Any) -> None:
    store(vault, RDS)
    store(vault, {"password": "x"}, "bare")
    assert SecretsManager("orders").credentials(ANYWHERE, "fallback", 5.0).user == "app"
    assert SecretsManager("bare").credentials(ANYWHERE, "fallback", 5.0).user == "fallback"
    with pytest.raises(CredentialsError, match=r"'bare'.*'username'.*URL"):
        SecretsManager("bare").credentials(ANYWHERE, "", 5.0)


@pytest.mark.parametrize("host", ["db.example.", "my_db", "10.0.0.7", "fd00::7", "[fd00::7]", "/run/postgresql"])
def test_what_a_host_may_be(vault: Any, host: str) -> None:
    store(vault, {**RDS, "host": host})
    assert SecretsManager("orders").credentials(ANYWHERE, "", 5.0).host == host


@pytest.mark.parametrize(
    "host", ["postgresql://app:hunter2@db", "app:hunter2@db", "db:5432", "a.example,b.example", "db\n"]
)
def test_what_is_no_host_is_not_shown_and_matters_only_where_it_is_used(vault: Any, host: str) -> None:
    store(vault, {**RDS, "host": host})
    auth = SecretsManager("orders")
    with pytest.raises(CredentialsError, match="'host' that is not the name or address of a single host") as caught:
        auth.credentials(ANYWHERE, "", 5.0)
    assert "hunter2" not in str(caught.value)
    assert auth.credentials(Endpoint("db.example", 5432), "", 5.0).user == "app"


@pytest.mark.parametrize("port", [3306, "3306"])
def test_a_port_is_a_number_or_its_text(vault: Any, port: object) -> None:
    store(vault, {**RDS, "port": port})
    assert SecretsManager("orders").credentials(ANYWHERE, "", 5.0).port == 3306


@pytest.mark.parametrize("nothing", [None, ""])
def test_an_empty_value_is_a_missing_one(vault: Any, nothing: object) -> None:
    store(vault, {"username": "app", "password": "x", "host": nothing, "port": nothing, "dbname": nothing})
    found = SecretsManager("orders").credentials(ANYWHERE, "", 5.0)
    assert found == Credentials("app", found.password, pending=True)


@pytest.mark.sampled(4, "many cases")
@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("hunter2", "not a JSON object"),
        ('["hunter2"]', "not a JSON object"),
        ('{"password": "hunter2"', "not a JSON object"),
        ("[" * 60_000, "not a JSON object"),
        ({"username": "app", "pass": "hunter2"}, "'password'"),
        ({"username": "app", "password": ""}, "'password'"),
        ({"username": "app", "password": ["hunter2"]}, "'password' that is not text"),
        ({"username": 7, "password": "hunter2"}, "'username' that is not text"),
        ({"username": "app", "password": "hunter2\0"}, "'password' with characters"),
        ('{"username": "app", "password": "hunter2\\ud800"}', "'password' with characters"),
        ({"username": "app", "password": "hunter2", "host": {}}, "'host' that is not text"),
        ({"username": "app", "password": "hunter2", "port": "hunter2"}, "'port'"),
        ({"username": "app", "password": "hunter2", "port": 65536}, "'port'"),
        ({"username": "app", "password": "hunter2", "port": True}, "'port'"),
        ({"username": "app", "password": "hunter2", "port": 5432.5}, "'port'"),
    ],
)
def test_a_secret_that_is_no_login_is_named_but_never_shown(
    vault: Any, body: object, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    store(vault, body)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(CredentialsError, match=rf"SecretsManager\('orders'\).*{says}") as caught:
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)
    error = caught.value
    assert error.__context__ is None
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert "hunter2" not in "".join(line for line in report.format() if "tests/unit/auth" not in line)
    assert "hunter2" not in caplog.text


def test_a_binary_secret_is_refused(vault: Any) -> None:
    vault.create_secret(Name="orders", SecretBinary=b"hunter2")
    with pytest.raises(CredentialsError, match="binary"):
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)


def test_a_secret_of_another_engine_is_refused(vault: Any) -> None:
    store(vault, {**RDS, "engine": "mariadb"})
    with pytest.raises(ConfigError, match=r"'orders'.*mysql.*postgresql"):
        SecretsManager("orders").credentials(Endpoint("db.example", engine="postgresql"), "", 5.0)
    assert SecretsManager("orders").credentials(Endpoint("db.example", engine="mysql"), "", 5.0).user == "app"


def test_nothing_shows_the_password(vault: Any, caplog: pytest.LogCaptureFixture) -> None:
    store(vault, {**RDS, "password": "hunter2"})
    caplog.set_level(logging.DEBUG)
    auth = SecretsManager("orders")
    found = auth.credentials(ANYWHERE, "", 5.0)
    shown = [repr(auth), repr(found), repr(vars(auth)), auth.hint("db.example", "app"), caplog.text]
    assert all("hunter2" not in text for text in shown)
    assert "IQoJb3JpZ2luX2Vj" not in caplog.text  # the session token


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SecretsManager(""), "name or ARN"),
        (lambda: SecretsManager("postgresql://app:hunter2@db.example/orders"), "Did you give it the secret's value"),
        (lambda: SecretsManager("orders", version_stage=""), "version_stage"),
        (lambda: SecretsManager("orders", max_age=-1), "max_age"),
        (lambda: SecretsManager("orders", max_age=float("nan")), "max_age"),
        (lambda: SecretsManager("orders", region="Frankfurt"), "region"),
        (lambda: SecretsManager(ARN, region="us-east-1"), "contradicts"),
        (lambda: SecretsManager("arn:aws:s3:::bucket"), "not the ARN of a secret"),
        (lambda: SecretsManager(ARN.replace("secret:", "secret")), "not the ARN of a secret"),
        (lambda: SecretsManager(ARN.replace("us-west-2", "")), "not the ARN of a secret"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


@given(st.one_of(st.text(), st.text().map("arn:".__add__), st.lists(st.text()).map(":".join)))
@settings(max_examples=examples(10_000))
def test_any_name_is_taken_or_refused_with_our_error(name: str) -> None:
    with contextlib.suppress(ConfigError):
        SecretsManager(name)


@pytest.mark.parametrize("partition", ["aws", "aws-cn", "aws-us-gov"])
def test_arns_of_all_partitions_are_taken(partition: str) -> None:
    SecretsManager(ARN.replace("arn:aws:", f"arn:{partition}:"))


def test_no_region_says_how_to_give_one(in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.delenv("AWS_REGION")
    in_lambda.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match=r"'orders'.*ARN.*AWS_REGION"):
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)


def test_a_profile_that_does_not_exist_is_named(in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(CredentialsError, match="no-such-profile"):
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)


# --- cache and rotation -----------------------------------------------------------------------------------------------


def test_a_secret_is_kept_for_a_while(vault: Any) -> None:
    store(vault, RDS)
    clock = Time()
    auth = SecretsManager("orders", clock=clock)
    auth.credentials(ANYWHERE, "", 5.0)
    clock.now += MAX_AGE - 1
    assert auth.credentials(ANYWHERE, "", 5.0).cached
    clock.now += 1
    assert not auth.credentials(ANYWHERE, "", 5.0).cached
    clock.now -= 1  # a clock that goes backwards makes every age unknown
    assert not auth.credentials(ANYWHERE, "", 5.0).cached


def test_what_an_interrupt_left_locked_is_not_locked_for_its_thread(vault: Any) -> None:
    store(vault, RDS)
    auth = SecretsManager("orders")
    auth._lock.acquire()
    auth._identity._lock.acquire()
    assert password(auth.credentials(ANYWHERE, "", 5.0)) == RDS["password"]


def too_old(vault: Any) -> SecretsManager:
    """A source whose known login is due to be looked at again."""
    store(vault, RDS)
    clock = Time()
    auth = SecretsManager("orders", clock=clock)
    auth.credentials(ANYWHERE, "", 5.0)
    clock.now += MAX_AGE + 1
    return auth


def test_what_is_known_serves_where_awss_own_credentials_cannot_be_had(
    vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = too_old(vault)

    def none(timeout: float) -> object:
        raise CredentialsError("the credentials endpoint did not answer in time")

    monkeypatch.setattr(auth._identity, "credentials", none)
    assert password(auth.credentials(ANYWHERE, "", 5.0)) == RDS["password"]
    with pytest.raises(CredentialsError, match="did not answer"):
        other = SecretsManager("orders")
        monkeypatch.setattr(other._identity, "credentials", none)
        other.credentials(ANYWHERE, "", 5.0)


def test_a_new_look_at_a_known_secret_leaves_time_to_connect_with_it(
    vault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = too_old(vault)
    allowed: list[float] = []

    def silent(stage: str, deadline: float) -> object:
        allowed.append(deadline - time.monotonic())
        raise CredentialsError("no answer in time")

    monkeypatch.setattr(auth, "_ask", silent)
    assert password(auth.credentials(ANYWHERE, "", 60.0)) == RDS["password"]
    assert allowed == [pytest.approx(30.0, abs=3.0)]


def test_botocores_log_stays_quiet_after_a_quiet_block_within(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("botocore.parsers")
    with caplog.at_level(logging.DEBUG), no_bodies_logged():
        with no_bodies_logged():
            log.debug("inner c4n4ry")
        log.debug("outer c4n4ry")
    assert "c4n4ry" not in caplog.text


def test_an_age_of_zero_asks_every_time(vault: Any) -> None:
    store(vault, RDS)
    auth = SecretsManager("orders", max_age=0)
    auth.credentials(ANYWHERE, "", 5.0)
    assert not auth.credentials(ANYWHERE, "", 5.0).cached


def test_a_refused_login_is_fetched_anew(vault: Any) -> None:
    store(vault, RDS)
    auth = SecretsManager("orders")
    auth.credentials(ANYWHERE, "", 5.0)
    old = auth.credentials(ANYWHERE, "", 5.0)
    stage(vault, {**RDS, "username": "app_clone", "password": "new"}, "AWSCURRENT")
    auth.rejected(old)
    new = auth.credentials(ANYWHERE, "app", 5.0)
    assert (new.user, password(new), new.cached) == ("app_clone", "new", False)
    auth.rejected(old)  # this came too late: the new one stays
    assert auth.credentials(ANYWHERE, "app", 5.0).cached


def test_a_rotation_halfway_through_is_followed(vault: Any) -> None:
    # The database already has the new password, but the new version is not yet the current one.
    store(vault, RDS)
    auth = SecretsManager("orders")
    auth.rejected(auth.credentials(ANYWHERE, "", 5.0))
    stage(vault, {**RDS, "password": "new"}, "AWSPENDING")
    pending = auth.credentials(ANYWHERE, "", 5.0)
    assert password(pending) == "new"
    auth.rejected(pending)  # not yet, then: back to the current one
    assert password(auth.credentials(ANYWHERE, "", 5.0)) == RDS["password"]


@pytest.mark.parametrize("pending", ["not yet JSON", json.dumps({"username": "app"})])
def test_a_pending_version_that_is_no_login_is_left_alone(vault: Any, pending: str) -> None:
    store(vault, RDS)
    vault.put_secret_value(SecretId="orders", SecretString=pending, VersionStages=["AWSPENDING"])
    auth = SecretsManager("orders")
    auth.rejected(auth.credentials(ANYWHERE, "", 5.0))
    assert password(auth.credentials(ANYWHERE, "", 5.0)) == RDS["password"]


def test_a_pending_version_is_not_used_unless_the_current_one_was_refused(vault: Any) -> None:
    store(vault, RDS)
    stage(vault, {**RDS, "password": "new"}, "AWSPENDING")
    assert password(SecretsManager("orders").credentials(ANYWHERE, "", 5.0)) == RDS["password"]


def test_another_stage_may_be_asked_for(vault: Any) -> None:
    store(vault, RDS)
    stage(vault, {**RDS, "password": "new"}, "BLUE")
    auth = SecretsManager("orders", version_stage="BLUE")
    assert password(auth.credentials(ANYWHERE, "", 5.0)) == "new"
    with pytest.raises(CredentialsError, match=r"stage GREEN.*no version with this stage"):
        SecretsManager("orders", version_stage="GREEN").credentials(ANYWHERE, "", 5.0)


def test_an_older_answer_serves_while_nobody_answers(vault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store(vault, RDS)
    clock = Time()
    auth = SecretsManager("orders", clock=clock)
    auth.credentials(ANYWHERE, "", 5.0)
    clock.now += MAX_AGE
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    old = auth.credentials(ANYWHERE, "", 0.5)
    assert old.cached
    auth.rejected(old)
    with pytest.raises(CredentialsError, match="did not answer"):
        auth.credentials(ANYWHERE, "", 0.5)


def test_an_older_answer_does_not_hide_a_secret_that_is_gone(vault: Any) -> None:
    store(vault, RDS)
    clock = Time()
    auth = SecretsManager("orders", clock=clock)
    auth.credentials(ANYWHERE, "", 5.0)
    clock.now += MAX_AGE
    vault.delete_secret(SecretId="orders", ForceDeleteWithoutRecovery=True)
    with pytest.raises(CredentialsError, match=r"no such secret"):
        auth.credentials(ANYWHERE, "", 5.0)


def test_forget_forgets_even_under_a_lost_lock(vault: Any) -> None:
    store(vault, RDS)
    auth = SecretsManager("orders")
    auth.credentials(ANYWHERE, "", 5.0)
    auth._lock.acquire()  # as if it were held by a thread that a fork left behind
    auth.forget()
    assert not auth.credentials(ANYWHERE, "", 5.0).cached


def test_a_pickle_holds_nothing_that_was_fetched(vault: Any) -> None:
    store(vault, {**RDS, "password": "open sesame"})
    auth = SecretsManager("orders", version_stage="AWSCURRENT", max_age=60)
    auth.credentials(ANYWHERE, "", 5.0)
    pickled = pickle.dumps(auth)
    assert b"sesame" not in pickled
    found = pickle.loads(pickled)
    assert [found.credentials(ANYWHERE, "", 5.0).cached for _ in range(2)] == [False, True]
    assert copy.deepcopy({"auth": auth})["auth"] is auth


def test_threads_fetch_once_and_none_waits_longer_than_allowed(vault: Any) -> None:
    store(vault, RDS)
    auth = SecretsManager("orders")
    start = threading.Barrier(6)
    found = []

    def fetch() -> None:
        start.wait(10)
        found.append(auth.credentials(ANYWHERE, "", 5.0).cached)

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == [False] + [True] * 5
    auth.forget()
    with held_elsewhere(auth._lock), pytest.raises(CredentialsError, match="another thread"):
        auth.credentials(ANYWHERE, "", 0.05)


def test_what_is_known_waits_for_no_thread_that_asks(vault: Any) -> None:
    store(vault, RDS)
    clock = Time()
    auth = SecretsManager("orders", clock=clock)
    auth.credentials(ANYWHERE, "", 5.0)
    clock.now += MAX_AGE
    with held_elsewhere(auth._lock):
        start = time.monotonic()
        found = auth.credentials(ANYWHERE, "", 5.0)
        assert time.monotonic() - start < 1
        assert (password(found), found.cached) == (RDS["password"], True)
        auth.rejected(found)
        with pytest.raises(CredentialsError, match="another thread"):
            auth.credentials(ANYWHERE, "", 0.05)
    assert not auth.credentials(ANYWHERE, "", 5.0).cached


# --- an API that refuses, fails or does not answer --------------------------------------------------------------------


class Api:
    """A Secrets Manager that answers as a test wants. `answer` gives the status and body for each request."""

    def __init__(self) -> None:
        self.requests = 0
        self.signed: list[str] = []
        self.answer: Callable[[int], tuple[int, bytes]] = lambda number: (200, b"{}")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests += 1
                outer.signed.append(self.headers["Authorization"])
                status, body = outer.answer(outer.requests)
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def fail(self, code: str, status: int = 400) -> None:
        """Answer every request with this error."""
        self.answer = lambda number: (status, json.dumps({"__type": code, "Message": "no"}).encode())


@pytest.fixture
def api(in_lambda: pytest.MonkeyPatch) -> Iterator[Api]:
    """A running one, to which AWS_ENDPOINT_URL leads."""
    found = Api()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    in_lambda.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{found.server.server_port}")
    yield found
    found.server.shutdown()
    thread.join(10)
    found.server.server_close()


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        ("ResourceNotFoundException", "check the region and the name"),
        ("AccessDeniedException", r"secretsmanager:GetSecretValue.*kms:Decrypt"),
        ("DecryptionFailure", "kms:Decrypt"),
        ("InvalidRequestException", "marked for deletion"),
        ("InvalidParameterException", "not valid"),
        ("ExpiredTokenException", "expired"),
        ("SomethingNew", "see the cause"),
    ],
)
def test_a_refusal_says_the_fix_and_is_not_repeated(api: Api, code: str, fix: str) -> None:
    api.fail(code)
    with pytest.raises(CredentialsError, match=rf"'orders'.*{code}.*{fix}") as caught:
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)
    assert type(caught.value.__cause__).__module__.startswith("botocore")
    assert api.requests == 1


ANSWERS: dict[str, tuple[int, bytes]] = {
    "a page of somebody else": (200, b"<html>Welcome to the hotel's network</html>"),
    "half of the answer": (200, GOOD[:-20]),
    "nothing": (200, b""),
    "a refusal of somebody else": (403, b"<html>blocked</html>"),
    "a redirection": (302, b""),
    "keys that have expired": (400, b'{"__type": "ExpiredTokenException"}'),
    "a clock that is wrong": (400, b'{"__type": "InvalidSignatureException"}'),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_older_answer_serves_after_what_says_nothing_of_the_secret(api: Api, name: str) -> None:
    clock = Time()
    auth = SecretsManager("orders", clock=clock)
    api.answer = lambda number: (200, GOOD)
    auth.credentials(ANYWHERE, "", 5.0)
    clock.now += MAX_AGE
    api.answer = lambda number: ANSWERS[name]
    old = auth.credentials(ANYWHERE, "", 5.0)
    assert (password(old), old.cached) == (RDS["password"], True)
    auth.rejected(old)
    with pytest.raises(CredentialsError, match=r"'orders'.*could not be fetched"):
        auth.credentials(ANYWHERE, "", 5.0)


def test_an_answer_that_was_cut_off_is_not_called_binary(api: Api) -> None:
    api.answer = lambda number: (200, GOOD[:-20])
    with pytest.raises(CredentialsError, match="the answer could not be read: it holds no secret"):
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)


def test_keys_that_were_refused_are_looked_up_again(api: Api, in_lambda: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Somebody logs in again while a server goes on, and a tool writes the new keys into the profile."""
    in_lambda.delenv("AWS_ACCESS_KEY_ID")
    profile = "[default]\naws_access_key_id = {}\naws_secret_access_key = S\naws_session_token = T\n"
    (tmp_path / "credentials").write_text(profile.format("OLD"))
    auth = SecretsManager("orders")
    api.fail("ExpiredTokenException")
    with pytest.raises(CredentialsError, match="log in again"):
        auth.credentials(ANYWHERE, "", 5.0)
    (tmp_path / "credentials").write_text(profile.format("NEW"))
    api.answer = lambda number: (200, GOOD)
    assert auth.credentials(ANYWHERE, "", 5.0).user == "app"
    assert ["OLD/" in api.signed[0], "NEW/" in api.signed[1]] == [True, True]


@pytest.mark.sampled(1, "half a second a case")
@pytest.mark.parametrize(("code", "status"), [("ThrottlingException", 400), ("InternalServiceError", 500), ("", 503)])
def test_what_passes_is_tried_again(api: Api, code: str, status: int) -> None:
    api.answer = lambda number: (status, json.dumps({"__type": code}).encode()) if number < 3 else (200, GOOD)
    assert SecretsManager("orders").credentials(ANYWHERE, "", 5.0).user == "app"
    assert api.requests == 3


def test_trying_again_ends_in_time(api: Api) -> None:
    api.fail("ThrottlingException")
    start = time.monotonic()
    with pytest.raises(CredentialsError, match="ThrottlingException: try again"):
        SecretsManager("orders").credentials(ANYWHERE, "", 2.0)
    assert api.requests > 1
    assert time.monotonic() - start < 4


def test_a_silent_endpoint_is_not_waited_for_longer_than_allowed(in_lambda: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        in_lambda.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(CredentialsError, match=r"interface endpoint com\.amazonaws\.eu-central-1\.secretsmanager"):
            SecretsManager("orders").credentials(ANYWHERE, "", 2.0)
        assert time.monotonic() - start < 5


def test_a_name_with_many_dead_addresses_is_not_waited_for_longer_than_allowed(
    in_lambda: pytest.MonkeyPatch,
) -> None:
    # A full backlog drops new connections, like a security group.
    real = socket.getaddrinfo
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())
        with socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(full.getsockname())
            port = full.getsockname()[1]
            in_lambda.setattr(
                socket, "getaddrinfo", lambda host, *rest, **named: real("127.0.0.1", port, type=socket.SOCK_STREAM) * 6
            )
            in_lambda.setenv("AWS_ENDPOINT_URL", f"http://secrets.example:{port}")
            start = time.monotonic()
            with pytest.raises(CredentialsError, match="did not answer"):
                SecretsManager("orders").credentials(ANYWHERE, "", 2.0)
            assert time.monotonic() - start < 4


def test_a_wrong_endpoint_url_is_named(in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(CredentialsError, match="nonsense"):
        SecretsManager("orders").credentials(ANYWHERE, "", 5.0)


# --- anything at all --------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.text().map(lambda text: text * 1_000)
    ),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=3,
)
FIELDS = st.one_of(
    JSON,
    st.sampled_from(
        ["app", "5432", "0", "65535", "65536", "٣", "postgres", "mysql", "\ud800", "\0", 5432, 3306.0, 10**30]
    ),
)
BODIES = st.one_of(
    st.text(),
    JSON.map(json.dumps),
    st.dictionaries(st.sampled_from([*RDS, "other"]), FIELDS).map(json.dumps),
    st.fixed_dictionaries({"password": st.text()}, optional={key: FIELDS for key in RDS if key != "password"}).map(
        json.dumps
    ),
)


class Client:
    """Answers like botocore's client, with anything that a test generates."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def get_secret_value(self, **arguments: str) -> object:
        return self._answer

    def close(self) -> None:
        pass


def fetch(answer: object) -> Credentials:
    """The credentials that result from one answer of the API."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "K")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "S")
        patch.setenv("AWS_REGION", "eu-central-1")
        patch.setattr(secrets_module, "load_session", SimpleNamespace)
        patch.setattr(secrets_module, "create_client", lambda *rest: Client(answer))
        return SecretsManager("orders").credentials(ANYWHERE, "url", 5.0)


@given(BODIES)
@example(json.dumps(RDS))
@example("[" * 65_536)
@example('{"a":' * 10_000)
@example('{"port": ' + "1" * 5_000 + "}")
@settings(max_examples=examples(10_000), deadline=None)
def test_any_body_gives_its_own_login_or_our_error(body: str) -> None:
    try:
        found = fetch({"SecretString": body, "VersionId": "v"})
    except LambdaPoolError:
        return
    data = json.loads(body)
    assert password(found) == data["password"] != ""
    assert found.user == (data.get("username") or "url")
    assert found.host == (data.get("host") or None)
    assert found.database == (data.get("dbname") or None)
    assert found.port == (int(data["port"]) if data.get("port") else None)
    assert found.port is None or 0 < found.port < 65_536
    for value in (password(found), found.user, found.host or "", found.database or ""):
        assert "\0" not in value.encode().decode()


@given(st.one_of(JSON, st.dictionaries(st.sampled_from(["SecretString", "VersionId", "SecretBinary"]), JSON)))
@settings(max_examples=examples(2_000), deadline=None)
def test_any_answer_gives_our_error(answer: object) -> None:
    with pytest.raises(LambdaPoolError):
        fetch(answer)


@pytest.mark.sampled(1 / 3, "13 s")
def test_any_bytes_on_the_wire_give_our_error(api: Api) -> None:
    auth = SecretsManager("orders")

    @given(st.sampled_from([200, 204, 301, 400, 404]), st.one_of(st.binary(), JSON.map(json.dumps).map(str.encode)))
    @settings(max_examples=examples(300), deadline=None)
    def check(status: int, body: bytes) -> None:
        api.answer = lambda number: (status, body)
        with pytest.raises(LambdaPoolError) as caught:
            auth.credentials(ANYWHERE, "url", 5.0)
        assert "orders" in str(caught.value)

    check()
