"""Pools with IamToken against the servers that check tokens."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lambda_pool import ConfigError, ConnectError, CredentialsError, IamToken, Pool
from lambda_pool.auth.base import Credentials
from lambda_pool.auth.signature import VALID_FOR
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.secret import Secret
from tests.support.iam_servers import IamServer

from .conftest import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN


def query(pool: Pool, sql: str = "SELECT 1") -> Any:
    """The first value of the first row."""
    with pool.connection() as connection:
        cursor = connection.cursor()
        cursor.execute(sql)
        return cursor.fetchone()[0]


def pool_of(url: str, auth: IamToken | None = None, **options: Any) -> Pool:
    """A pool named `orders` that tells nobody of its metrics."""
    return Pool(url, auth=auth or IamToken(), name="orders", observers=(), **options)


@pytest.mark.sampled(1, "a second a case")
def test_logs_in(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    pool = pool_of(iam_server.url())
    assert query(pool) == 1
    assert [line.endswith("let in") for line in iam_server.checker.verdicts] == [True]
    pool.close()


def test_loopback_is_encrypted_too(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    # Elsewhere on loopback encryption is only preferred; with a token it is a must.
    url = iam_server.url().partition("?")[0]
    pool = pool_of(url)
    assert query(pool) == 1
    pool.close()


class Tampered(IamToken):
    """Signs well, and changes the last character."""

    def credentials(self, endpoint: Endpoint, user: str, timeout: float) -> Credentials:
        found = super().credentials(endpoint, user, timeout)
        assert found.password is not None
        text = found.password.reveal()
        return Credentials(user, Secret(text[:-1] + ("0" if text[-1] != "0" else "1")), found.cached)


@pytest.mark.parametrize(
    ("auth", "reason"),
    [
        (Tampered(), "the signature does not match"),
        (IamToken("us-east-1"), "wrong scope us-east-1/rds-db/aws4_request"),
        (IamToken(clock=lambda: time.time() - VALID_FOR), "it has expired"),
        (IamToken(clock=lambda: time.time() + 60), "it is not valid yet"),
    ],
    ids=["tampered", "region", "expired", "not yet valid"],
)
def test_a_refused_token_raises(
    iam_server: IamServer, in_lambda: pytest.MonkeyPatch, auth: IamToken, reason: str
) -> None:
    pool = pool_of(iam_server.url(), auth)
    with pytest.raises(CredentialsError, match=r"localhost.*'app'.*IamToken.*rds_iam.*rds-db:connect") as caught:
        query(pool)
    assert caught.value.__cause__ is not None
    assert type(caught.value.__cause__).__module__.partition(".")[0] in {"psycopg", "pymysql"}
    # A token signed for this very connect is not tried twice.
    assert [line.partition(": ")[2] for line in iam_server.checker.verdicts] == [reason]
    assert pool.stats().credentials_refreshed == 0


def test_a_wrong_host_raises(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    url = iam_server.url(host="127.0.0.1", sslmode="require").partition("&sslrootcert")[0]
    with pytest.raises(CredentialsError, match=r"that '127\.0\.0\.1' is the name AWS gave the endpoint"):
        query(pool_of(url))
    assert iam_server.checker.verdicts[-1].endswith(f"it is for 127.0.0.1:{iam_server.port}")


def test_a_wrong_user_raises(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    with pytest.raises(CredentialsError, match="'mallory'"):
        query(pool_of(iam_server.url("mallory")))


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_url_without_a_port_means_the_engines(in_lambda: pytest.MonkeyPatch, scheme: str) -> None:
    # Nobody listens there: what matters is that a token could be signed.
    with pytest.raises(ConnectError, match=r"127\.0\.0\.2"):
        query(pool_of(f"{scheme}://app@127.0.0.2/orders", timeout=0.2))


def test_a_wrong_key_raises(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.setenv("AWS_SECRET_ACCESS_KEY", "another")
    with pytest.raises(CredentialsError, match="'app'"):
        query(pool_of(iam_server.url()))


def test_errors_and_logs_hold_no_token(
    iam_server: IamServer, in_lambda: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    auth = IamToken("us-east-1")
    with pytest.raises(CredentialsError) as caught:
        query(pool_of(iam_server.url(), auth))
    error: BaseException | None = caught.value
    shown = caplog.text
    while error is not None:
        shown += repr(error) + str(error)
        error = error.__cause__
    for secret in ("X-Amz-Signature", SECRET_KEY, SESSION_TOKEN[:40], ACCESS_KEY):
        assert secret not in shown


def test_rotated_credentials_are_used_at_the_next_connect(iam_server: IamServer, in_lambda: pytest.MonkeyPatch) -> None:
    pool = pool_of(iam_server.url(), max_lifetime=1e-6)  # a new connection for each checkout
    query(pool)
    iam_server.checker.reset("ASIANEW", "new-secret", "new-token")
    in_lambda.setenv("AWS_ACCESS_KEY_ID", "ASIANEW")
    in_lambda.setenv("AWS_SECRET_ACCESS_KEY", "new-secret")
    in_lambda.setenv("AWS_SESSION_TOKEN", "new-token")
    query(pool)
    assert [line.partition(": ")[2] for line in iam_server.checker.verdicts] == ["let in"]
    pool.close()


def test_a_cached_token_that_the_server_finds_too_old_is_signed_anew(
    iam_server: IamServer, in_lambda: pytest.MonkeyPatch
) -> None:
    # The function's clock lags by 400 seconds when the first token is signed, and is put right only slowly.
    lag = 400.0
    pool = pool_of(iam_server.url(), IamToken(clock=lambda: time.time() + ahead - lag), max_lifetime=1e-6)
    ahead = 0.0
    query(pool)
    iam_server.checker.travel = ahead = 599.0
    iam_server.checker.write()
    assert query(pool) == 1
    assert [line.partition(": ")[2] for line in iam_server.checker.verdicts] == ["let in", "it has expired", "let in"]
    assert pool.stats().credentials_refreshed == 1
    pool.close()


# --- unencrypted ------------------------------------------------------------------------------------------------------


def _packet(number: int, body: bytes) -> bytes:
    """A packet of MySQL's protocol."""
    return struct.pack("<I", len(body))[:3] + bytes([number]) + body


class PlainServer:
    """Speaks the first words of a database that knows no TLS, and keeps all that a client sends."""

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self.connections = 0
        self.received = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with client:
                client.settimeout(5)
                try:
                    self._talk(client)
                except OSError:
                    continue

    def _talk(self, client: socket.socket) -> None:
        if self._scheme == "mysql":
            # Handshake v10 without the capability of TLS (0x0800).
            body = b"\x0a5.7.0\0" + struct.pack("<I", 1) + b"12345678\0" + struct.pack("<H", 0xFFFF & ~0x0800)
            body += b"\x21\x02\x00" + struct.pack("<H", 0x0008) + b"\x15" + b"\0" * 10 + b"123456789012\0"
            client.sendall(_packet(0, body + b"mysql_native_password\0"))
            # Whatever comes: please send the password in clear text.
            answer = _packet(2, b"\xfemysql_clear_password\0")
        else:
            answer = b"R\0\0\0\x08\0\0\0\x03"
        while data := client.recv(65536):
            self.received += data
            # PostgreSQL's no to a request for TLS.
            client.sendall(b"N" if data.endswith(b"\x04\xd2\x16\x2f") else answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture(params=["postgresql", "mysql"])
def plain_server(request: pytest.FixtureRequest) -> Iterator[PlainServer]:
    """One for each scheme."""
    server = PlainServer(request.param)
    yield server
    server.close()


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
def test_a_mode_that_allows_plain_text_is_refused_when_the_pool_is_made(
    plain_server: PlainServer, in_lambda: pytest.MonkeyPatch, mode: str
) -> None:
    with pytest.raises(ConfigError, match=rf"sslmode='{mode}'.*unencrypted"):
        pool_of(f"{plain_server._scheme}://app@127.0.0.1:{plain_server.port}/orders?sslmode={mode}")


def test_a_server_without_tls_never_sees_the_token(plain_server: PlainServer, in_lambda: pytest.MonkeyPatch) -> None:
    pool = pool_of(f"{plain_server._scheme}://app@127.0.0.1:{plain_server.port}/orders", timeout=2)
    with pytest.raises(ConnectError):
        query(pool)
    assert plain_server.connections > 0
    for part in (b"X-Amz", b"Action=connect", b"127.0.0.1:"):
        assert part not in plain_server.received


def test_the_plain_server_would_get_a_password(plain_server: PlainServer) -> None:
    # So that the test above cannot pass for a reason of its own.
    url = f"{plain_server._scheme}://app:hunter2@127.0.0.1:{plain_server.port}/orders?sslmode=disable"
    with pytest.raises(ConnectError):
        query(Pool(url, observers=(), timeout=1))
    assert b"hunter2" in plain_server.received
