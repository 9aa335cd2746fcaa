"""The doctor's advice by the texts that servers and kernels give, where no server of the tests gives them."""

import errno
import time

import pytest

from lambda_pool.auth.base import Credentials
from lambda_pool.cli.doctor.advice import _of_clock, of_address, of_login
from lambda_pool.cli.doctor.aws import Answer, Signed
from lambda_pool.engines.base import ConnectRequest, Failure
from lambda_pool.tls import Tls

REQUEST = ConnectRequest(
    host="db.example",
    port=3306,
    database="orders",
    credentials=Credentials(user="app", password=None),
    tls=Tls("require"),
    timeout=1.0,
    autocommit=False,
    pooled=False,
    application_name="orders",
)


@pytest.mark.parametrize(
    ("error", "in_lambda", "says"),
    [
        (OSError(errno.EHOSTUNREACH, "No route to host"), False, "check the subnets"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), False, "nothing listens on its port 3306"),
        (FileNotFoundError(errno.ENOENT, "none"), False, "There is no Unix socket 10.0.0.1"),
        (TimeoutError("timed out"), False, "through a VPN or a tunnel"),
        (TimeoutError("timed out"), True, "attach the function to the database's VPC"),
    ],
)
def test_an_address_that_cannot_be_reached(error: OSError, in_lambda: bool, says: str) -> None:
    assert says in " ".join(of_address(error, "10.0.0.1", 3306, in_lambda=in_lambda))


def test_a_public_address_is_not_called_private() -> None:
    assert "private" not in " ".join(of_address(TimeoutError("timed out"), "8.8.8.8", 3306, in_lambda=False))


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("server does not support SSL, but SSL was required", Failure.UNTRUSTED, "The server does not support TLS"),
        ("(3159, 'Connections using insecure transport are prohibited')", Failure.OTHER, "The server wants encryption"),
        ("(1130, \"Host '10.0.0.1' is not allowed to connect\")", Failure.OTHER, "CREATE USER app@'%'"),
        ("(1129, 'Host is blocked because of many connection errors')", Failure.OTHER, "FLUSH HOSTS"),
    ],
)
def test_a_login_that_fails(text: str, kind: Failure, says: str) -> None:
    assert says in " ".join(of_login(text, kind, "mysql", REQUEST))


@pytest.mark.parametrize(
    ("age", "says"),
    [(1000, "has expired"), (400, "may be behind"), (-400, "in the future"), (1, "")],
)
def test_a_clock_that_is_wrong(age: float, says: str) -> None:
    advice = " ".join(_of_clock(Signed(time.time() - age, "eu-central-1"), Answer(ahead=0.0)))
    assert says in advice
    assert bool(says) == bool(advice)


def test_a_password_has_no_clock() -> None:
    assert _of_clock(None, Answer(ahead=0.0)) == []
