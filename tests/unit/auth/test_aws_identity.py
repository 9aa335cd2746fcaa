"""AwsIdentity: where credentials come from when Lambda's access keys are not the ones to use."""

import datetime
import json
import logging
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from lambda_pool.auth.iam import IamToken
from lambda_pool.aws.environment import AwsCredentials
from lambda_pool.aws.identity import AwsIdentity
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.errors import CredentialsError
from lambda_pool.secret import Secret
from tests.support.locks import held_elsewhere

ENDPOINT = Endpoint("db.example", 5432)
LATER = "2999-01-01T00:00:00Z"


class Container:
    """A credentials endpoint as SnapStart and containers have it. `answer` gives status and body of each request."""

    def __init__(self) -> None:
        self.requests: list[str | None] = []
        self.minutes = 60.0
        self.answer: Callable[[int], tuple[int, object]] = lambda number: (200, self.keys(number))
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.headers["Authorization"])
                status, body = outer.answer(len(outer.requests))
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/credentials"

    def keys(self, number: int) -> dict[str, str]:
        """The keys number `number`, valid for `minutes`."""
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=self.minutes)
        return {
            "AccessKeyId": f"CONTAINER{number}",
            "SecretAccessKey": "containers-secret-key",
            "Token": "containers-session-token",
            "Expiration": until.isoformat(),
        }


@pytest.fixture
def container() -> Iterator[Container]:
    """A running credentials endpoint."""
    found = Container()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join(10)
    found.server.server_close()


@pytest.fixture
def restored(in_lambda: pytest.MonkeyPatch, container: Container) -> Container:
    """A restored SnapStart environment: the access keys are as old as its snapshot."""
    in_lambda.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    in_lambda.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url)
    in_lambda.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "authorization-token")
    return container


@pytest.fixture(autouse=True)
def no_service_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these needs a service client, which would cost 50 ms more."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a service client was built")

    monkeypatch.setattr(botocore.session.Session, "create_client", refuse)


def test_the_environments_keys_come_first(in_lambda: pytest.MonkeyPatch, container: Container) -> None:
    in_lambda.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url)
    assert AwsIdentity().credentials(10.0).access_key.startswith("ASIA")
    assert container.requests == []


def test_a_restored_snapshot_uses_the_containers(restored: Container) -> None:
    expected = AwsCredentials("CONTAINER1", Secret("containers-secret-key"), Secret("containers-session-token"))
    assert AwsIdentity().credentials(10.0) == expected
    assert restored.requests == ["authorization-token"]


def test_the_containers_are_asked_once_while_they_are_valid(restored: Container) -> None:
    auth = IamToken()
    assert not auth.credentials(ENDPOINT, "app", 10.0).cached
    assert auth.credentials(ENDPOINT, "app", 10.0).cached
    assert len(restored.requests) == 1


def test_the_containers_are_refreshed_before_they_expire(restored: Container) -> None:
    restored.minutes = 5
    identity = AwsIdentity()
    first = identity.credentials(10.0).access_key
    restored.minutes = 60
    second = identity.credentials(10.0).access_key
    assert second != first
    assert identity.credentials(10.0).access_key == second


def test_without_keys_in_the_environment_the_container_is_asked(
    no_aws: pytest.MonkeyPatch, container: Container
) -> None:
    no_aws.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.url)
    assert AwsIdentity().credentials(10.0).access_key == "CONTAINER1"


def test_a_refused_login_asks_the_container_anew(restored: Container) -> None:
    auth = IamToken()
    auth.rejected(auth.credentials(ENDPOINT, "app", 10.0))
    auth.credentials(ENDPOINT, "app", 10.0)
    assert len(restored.requests) == 2


def test_a_profile_is_read(no_aws: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = AKIAWORK\naws_secret_access_key = profiles\n")
    no_aws.setenv("AWS_PROFILE", "work")
    assert AwsIdentity().credentials(10.0) == AwsCredentials("AKIAWORK", Secret("profiles"), None)


def test_a_profile_that_does_not_exist_is_named(no_aws: pytest.MonkeyPatch) -> None:
    no_aws.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(CredentialsError, match=r"no-such-profile.*AWS_PROFILE"):
        AwsIdentity().credentials(10.0)


def test_no_credentials_says_how_to_give_them(no_aws: pytest.MonkeyPatch) -> None:
    with pytest.raises(CredentialsError, match=r"execution role.*AWS_ACCESS_KEY_ID.*AWS_PROFILE"):
        AwsIdentity().credentials(10.0)


@pytest.mark.sampled(3, "half a second a case")
@pytest.mark.parametrize(
    "body",
    [
        b"containers-secret-key",
        b"[]",
        b"{}",
        {"AccessKeyId": "A", "SecretAccessKey": "containers-secret-key"},
        {"AccessKeyId": "A", "SecretAccessKey": "containers-secret-key", "Token": "t", "Expiration": "never"},
        {"AccessKeyId": "A", "SecretAccessKey": "containers-secret-key", "Token": "t", "Expiration": None},
        {"AccessKeyId": None, "SecretAccessKey": "containers-secret-key", "Token": "t", "Expiration": LATER},
        {"AccessKeyId": "A", "SecretAccessKey": "", "Token": "t", "Expiration": LATER},
        {"AccessKeyId": "A", "SecretAccessKey": 1, "Token": "t", "Expiration": LATER},
        {"AccessKeyId": "A", "SecretAccessKey": "containers-secret-key", "Token": ["t"], "Expiration": LATER},
    ],
)
def test_a_broken_answer_is_ours_and_stays_secret(
    restored: Container, body: object, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    restored.answer = lambda number: (200, body)
    with pytest.raises(CredentialsError, match=r"could not be loaded|did not answer") as caught:
        AwsIdentity().credentials(5.0)
    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    shown = "".join(line for line in report.format() if "tests/unit/auth" not in line) + caplog.text
    assert "containers-secret-key" not in shown


def test_after_a_broken_answer_it_is_asked_again(restored: Container) -> None:
    restored.answer = lambda number: (200, restored.keys(number) | ({"AccessKeyId": None} if number == 1 else {}))
    identity = AwsIdentity()
    with pytest.raises(CredentialsError, match="missing or not text"):
        identity.credentials(5.0)
    assert identity.credentials(5.0).access_key == "CONTAINER2"


def test_an_endpoint_that_fails_is_tried_again(restored: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    restored.answer = lambda number: (500, b"busy") if number == 1 else (200, restored.keys(number))
    assert AwsIdentity().credentials(5.0).access_key == "CONTAINER2"


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize(("status", "body"), [(403, b"containers-secret-key"), (200, b"<html>")])
def test_an_endpoint_that_refuses_is_not_called_silent(restored: Container, status: int, body: bytes) -> None:
    restored.answer = lambda number: (status, body)
    with pytest.raises(CredentialsError, match=rf"gave no credentials \(status {status}\) in time") as caught:
        AwsIdentity().credentials(1.5)
    assert "containers-secret-key" not in str(caught.value)


def test_a_silent_endpoint_is_not_waited_for_longer_than_allowed(restored: Container) -> None:
    with socket.socket() as silent, pytest.MonkeyPatch.context() as environment:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        start = time.monotonic()
        with pytest.raises(CredentialsError, match="did not answer in time"):
            AwsIdentity().credentials(0.3)
        assert time.monotonic() - start < 5


def test_a_thread_does_not_wait_longer_than_allowed_for_another(restored: Container) -> None:
    identity = AwsIdentity()
    with held_elsewhere(identity._lock), pytest.raises(CredentialsError, match="another thread"):
        identity.credentials(0.05)


def test_debug_logs_hold_no_credentials(restored: Container, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    IamToken().token("db.example", 5432, "app")
    for secret in ("containers-secret-key", "containers-session-token", "authorization-token"):
        assert secret not in caplog.text


def test_botocore_logs_as_before_elsewhere(restored: Container, caplog: pytest.LogCaptureFixture) -> None:
    AwsIdentity().credentials(10.0)
    caplog.set_level(logging.DEBUG)
    logging.getLogger("botocore.utils").debug("somebody else's line")
    assert "somebody else's line" in caplog.text


@pytest.mark.parametrize(
    "call", ["IamToken().token('db.example', 5432, 'app')", "SecretsManager('db').credentials(E, '', 10.0)"]
)
def test_without_botocore_the_extra_is_named(no_aws: pytest.MonkeyPatch, call: str) -> None:
    no_aws.setenv("AWS_REGION", "eu-central-1")
    script = (
        "import sys; sys.modules['botocore'] = None\n"
        "from lambda_pool import ConfigError, IamToken, SecretsManager\n"
        "from lambda_pool.endpoints.base import Endpoint as E\n"
        f"try:\n    {call}\nexcept ConfigError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "botocore is not installed" in done.stdout
    assert "lambda-pool[aws]" in done.stdout
