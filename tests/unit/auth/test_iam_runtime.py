"""IAM logins on the genuine Lambda runtime: nothing but what Lambda gives a function, and what happens to it there."""

import textwrap
from pathlib import Path
from typing import Any

import pytest

from lambda_pool.auth.signature import VALID_FOR
from lambda_pool.testing import LambdaRuntime
from tests.support.iam_servers import REGION, IamServer

from .conftest import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, end_sessions

pytestmark = pytest.mark.runtime

LAMBDA_GIVES = {
    "AWS_REGION": REGION,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_SESSION_TOKEN": SESSION_TOKEN,
}

THREE_LINES = """
    import sys
    import lambda_pool

    @lambda_pool.handler
    def handler(event, context, conn):
        cursor = conn.cursor()
        cursor.execute("SELECT 41 + 1")
        sdk = {"boto3", "botocore", "aws_lambda_powertools", "urllib3"}
        return {"value": cursor.fetchone()[0], "loaded": sorted(sdk & set(sys.modules))}
"""

TRAVELLER = """
    import os, time
    from pathlib import Path
    from lambda_pool import IamToken, Pool

    def clock():
        return time.time() + float(Path(os.environ["TRAVEL"]).read_text())

    pool = Pool(os.environ["URL"], auth=IamToken(clock=clock))

    @pool.handler
    def handler(event, context, conn):
        cursor = conn.cursor()
        cursor.execute("SELECT pg_backend_pid()" if "postgresql" in os.environ["URL"] else "SELECT connection_id()")
        return cursor.fetchone()[0]

    def rotate(event, context):
        os.environ.update(event)

    def entry(event, context):
        return rotate(event, context) if event else handler(event, context)
"""


def verdicts(server: IamServer) -> list[str]:
    """What the server's checker said to each login."""
    return [line.partition(": ")[2] for line in server.checker.verdicts]


def code(folder: Path, text: str) -> Path:
    (folder / "app.py").write_text(textwrap.dedent(text))
    return folder


@pytest.mark.sampled(1, "a second a case")
def test_three_lines_log_in_without_an_sdk(iam_server: IamServer, tmp_path: Path, any_python: str) -> None:
    env = {**LAMBDA_GIVES, "LAMBDA_POOL_URL": iam_server.url(), "LAMBDA_POOL_AUTH": "iam"}
    folder = code(tmp_path, THREE_LINES)
    with LambdaRuntime("app.handler", code_dir=folder, env=env, python=any_python) as runtime:
        first = runtime.invoke()
        second = runtime.invoke()
        log = runtime.log
    assert first.payload == second.payload == {"value": 42, "loaded": []}
    [verdict] = iam_server.checker.verdicts
    assert verdict.endswith("let in")
    assert 1_100 <= int(verdict.partition("(")[2].partition(" ")[0]) < 1_300
    for secret in ("X-Amz-Signature", SECRET_KEY, SESSION_TOKEN[:40]):
        assert secret not in log


@pytest.mark.sampled(1, "a second a case")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another"}, "the signature does not match"),
        ({"AWS_SESSION_TOKEN": "another"}, "wrong session token"),
        ({"AWS_REGION": "us-east-1"}, "wrong scope us-east-1/rds-db/aws4_request"),
    ],
)
def test_a_refusal_is_a_credentials_error(
    iam_server: IamServer, tmp_path: Path, change: dict[str, str], reason: str
) -> None:
    env = {**LAMBDA_GIVES, "LAMBDA_POOL_URL": iam_server.url(), "LAMBDA_POOL_AUTH": "iam", **change}
    with LambdaRuntime("app.handler", code_dir=code(tmp_path, THREE_LINES), env=env) as runtime:
        answer = runtime.invoke()
        log = runtime.log
    assert answer.error is not None
    assert answer.error["errorType"] == "CredentialsError"
    assert "'app'" in answer.error["errorMessage"]
    assert "rds-db:connect" in answer.error["errorMessage"]
    assert verdicts(iam_server) == [reason]
    for secret in ("X-Amz-Signature", SECRET_KEY, SESSION_TOKEN[:40]):
        assert secret not in log


class Traveller:
    """A function on the runtime whose clock and whose server's clock can be moved together."""

    def __init__(self, server: IamServer, folder: Path) -> None:
        self._server = server
        self._travel = folder / "travel"
        self._travel.write_text("0")
        env = {**LAMBDA_GIVES, "URL": server.url(), "TRAVEL": str(self._travel)}
        self.runtime = LambdaRuntime("app.entry", code_dir=code(folder, TRAVELLER), env=env)

    def invoke(self, event: dict[str, str] | None = None) -> Any:
        answer = self.runtime.invoke(event)
        assert answer.error is None, answer.error
        return answer.payload

    def sleep(self, seconds: float) -> None:
        """Freeze; let time pass, and the server lose patience with the idle session; thaw."""
        self.runtime.freeze()
        self._server.checker.travel += seconds
        self._server.checker.write()
        self._travel.write_text(str(self._server.checker.travel))
        end_sessions(self._server.server, "app")
        self.runtime.thaw()


@pytest.mark.sampled(1 / 2, "2 s a case")
def test_a_freeze_across_the_tokens_expiry_is_not_noticed(iam_server: IamServer, tmp_path: Path) -> None:
    traveller = Traveller(iam_server, tmp_path)
    with traveller.runtime:
        sessions = [traveller.invoke()]
        for seconds in (60, VALID_FOR + 60, 86_400, 1):
            traveller.sleep(seconds)
            sessions.append(traveller.invoke())
    assert len(set(sessions)) == 5
    assert verdicts(iam_server) == ["let in"] * 5


@pytest.mark.sampled(1, "a second a case")
def test_a_rotation_of_the_environments_credentials_is_not_noticed(iam_server: IamServer, tmp_path: Path) -> None:
    traveller = Traveller(iam_server, tmp_path)
    with traveller.runtime:
        traveller.invoke()
        iam_server.checker.reset("ASIANEW", "new-secret", "new-token")
        traveller.invoke(
            {
                "AWS_ACCESS_KEY_ID": "ASIANEW",
                "AWS_SECRET_ACCESS_KEY": "new-secret",
                "AWS_SESSION_TOKEN": "new-token",
            }
        )
        end_sessions(iam_server.server, "app")
        traveller.invoke()
    assert verdicts(iam_server) == ["let in"]


@pytest.mark.sampled(1, "2 s a case")
def test_a_token_that_is_not_signed_anew_would_have_been_noticed(iam_server: IamServer, tmp_path: Path) -> None:
    # So that the test of the freeze cannot pass for a reason of its own: here the function's clock stays behind.
    traveller = Traveller(iam_server, tmp_path)
    with traveller.runtime:
        traveller.invoke()
        traveller.sleep(VALID_FOR + 60)
        (tmp_path / "travel").write_text("0")
        answer = traveller.runtime.invoke()
    assert answer.error is not None
    assert answer.error["errorType"] == "CredentialsError"
    assert verdicts(iam_server)[1:] == ["it has expired", "it has expired"]
