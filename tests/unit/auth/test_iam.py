"""IamToken: the region, the cache, and what it refuses to sign."""

import copy
import pickle
import subprocess
import sys
import threading
import time
import traceback
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lambda_pool.auth.base import Auth
from lambda_pool.auth.iam import MAX_TOKENS, REFRESH_AFTER, IamToken
from lambda_pool.auth.signature import VALID_FOR
from lambda_pool.endpoints.base import Endpoint
from lambda_pool.errors import ConfigError, CredentialsError, LambdaPoolError
from tests.support.speed import examples

from .conftest import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN

ENDPOINT = Endpoint("db.example", 5432)
CLUSTER = "orders.cluster-c0ffee123456.us-west-2.rds.amazonaws.com"


class Time:
    """A wall clock to be set by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def region_in(token: str) -> str:
    """The region that a token was signed for."""
    return parse_qs(urlsplit("//" + token).query)["X-Amz-Credential"][0].split("/")[2]


def is_an_auth(auth: Auth) -> None:
    """For the type checker: IamToken keeps to the protocol."""


def test_keeps_to_the_protocol() -> None:
    is_an_auth(IamToken())
    assert IamToken().needs_tls is True


# --- region -----------------------------------------------------------------------------------------------------------


def test_the_argument_is_the_region(in_lambda: pytest.MonkeyPatch) -> None:
    assert region_in(IamToken("ap-south-1").token(CLUSTER, 5432, "app")) == "ap-south-1"


def test_the_hosts_region_beats_the_functions(in_lambda: pytest.MonkeyPatch) -> None:
    assert region_in(IamToken().token(CLUSTER, 5432, "app")) == "us-west-2"
    assert region_in(IamToken().token(CLUSTER.upper() + ".", 5432, "app")) == "us-west-2"


@pytest.mark.parametrize(
    "host", ["db.example", "10.0.0.1", "::1", "localhost", "writer.global-abcdefghijkl.global.rds.amazonaws.com"]
)
def test_a_host_without_a_region_takes_the_functions(in_lambda: pytest.MonkeyPatch, host: str) -> None:
    assert region_in(IamToken().token(host, 5432, "app")) == "eu-central-1"


def test_the_default_region_comes_last(in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.setenv("AWS_DEFAULT_REGION", "sa-east-1")
    assert region_in(IamToken().token("db.example", 5432, "app")) == "eu-central-1"
    in_lambda.delenv("AWS_REGION")
    assert region_in(IamToken().token("db.example", 5432, "app")) == "sa-east-1"


def test_no_region_says_how_to_give_one(in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.delenv("AWS_REGION")
    in_lambda.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigError, match=r"'db\.example'.*IamToken\(region='\.\.\.'\).*AWS_REGION"):
        IamToken().token("db.example", 5432, "app")


@pytest.mark.parametrize("region", ["", "eu central 1", "EU-CENTRAL-1", "eu-central-1a", "eu-1", "eu-central-1/x", 7])
def test_a_wrong_region_is_refused_at_once(region: str) -> None:
    with pytest.raises(ConfigError, match="region="):
        IamToken(region)


# --- what is signed for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["", "/var/run/postgresql", "@abstract", "a,b", "db:5432", "user@db", "db/x", "db?x", "dbü", "d b", "db\n", "[db]"],
)
def test_a_host_that_is_none_is_refused(in_lambda: pytest.MonkeyPatch, host: str) -> None:
    with pytest.raises(ConfigError):
        IamToken().token(host, 5432, "app")


@pytest.mark.parametrize("port", [0, -1, 65536, None, "5432"])
def test_a_port_that_is_none_is_refused(in_lambda: pytest.MonkeyPatch, port: int) -> None:
    with pytest.raises(ConfigError, match="port"):
        IamToken().token("db.example", port, "app")


@pytest.mark.parametrize("user", ["", "\ud800"])
def test_a_user_that_is_none_is_refused(in_lambda: pytest.MonkeyPatch, user: str) -> None:
    with pytest.raises(ConfigError, match="user"):
        IamToken().token("db.example", 5432, user)


@given(st.text(), st.integers(), st.text())
@settings(max_examples=examples(10_000), deadline=None)
def test_any_input_gives_a_token_or_one_of_our_errors(host: str, port: int, user: str) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "K")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "S")
        environment.setenv("AWS_REGION", "eu-central-1")
        try:
            token = IamToken().token(host, port, user)
        except LambdaPoolError:
            return
        assert parse_qs(urlsplit("//" + token).query)["DBUser"] == [user]


@pytest.mark.parametrize(("engine", "port"), [("postgresql", 5432), ("mysql", 3306)])
def test_the_engines_port_is_signed_where_none_is_named(in_lambda: pytest.MonkeyPatch, engine: str, port: int) -> None:
    found = IamToken().credentials(Endpoint("db.example", engine=engine), "app", 10.0)
    assert found.password is not None
    assert found.password.reveal().startswith(f"db.example:{port}/?")


def test_no_port_and_no_engine_is_refused(in_lambda: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"port.*db\.example"):
        IamToken().credentials(Endpoint("db.example"), "app", 10.0)


def test_what_the_api_says_of_iam_is_left_to_the_server_to_confirm(in_lambda: pytest.MonkeyPatch) -> None:
    found = IamToken().credentials(Endpoint("db.example", 5432, iam=False), "app", 10.0)
    assert found.iam is True


# --- cache ------------------------------------------------------------------------------------------------------------


def test_refreshes_well_before_the_token_expires() -> None:
    assert REFRESH_AFTER <= VALID_FOR - 300


def test_a_token_is_used_again_until_it_is_old(in_lambda: pytest.MonkeyPatch) -> None:
    clock = Time()
    auth = IamToken(clock=clock)
    first = auth.credentials(ENDPOINT, "app", 10.0)
    clock.now += REFRESH_AFTER - 1
    second = auth.credentials(ENDPOINT, "app", 10.0)
    clock.now += 1
    third = auth.credentials(ENDPOINT, "app", 10.0)

    assert (first.cached, second.cached, third.cached) == (False, True, False)
    assert second.password == first.password
    assert third.password != first.password


def test_a_freeze_makes_a_token_old(in_lambda: pytest.MonkeyPatch) -> None:
    # The wall clock went on; the monotonic one stood still.
    clock = Time()
    auth = IamToken(clock=clock)
    auth.credentials(ENDPOINT, "app", 10.0)
    clock.now += 86_400
    assert not auth.credentials(ENDPOINT, "app", 10.0).cached


def test_a_token_from_the_future_is_not_used(in_lambda: pytest.MonkeyPatch) -> None:
    clock = Time()
    auth = IamToken(clock=clock)
    first = auth.credentials(ENDPOINT, "app", 10.0)
    clock.now -= 1
    second = auth.credentials(ENDPOINT, "app", 10.0)
    assert not second.cached
    assert second.password != first.password


def test_a_wall_clock_set_back_cannot_make_an_old_token_young(
    in_lambda: pytest.MonkeyPatch,
) -> None:
    clock = Time()
    auth = IamToken(clock=clock)
    auth.credentials(ENDPOINT, "app", 10.0)
    real = time.monotonic
    in_lambda.setattr("lambda_pool.age.time.monotonic", lambda: real() + VALID_FOR)
    assert not auth.credentials(ENDPOINT, "app", 10.0).cached


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_new_credentials_mean_a_new_token(in_lambda: pytest.MonkeyPatch, name: str) -> None:
    clock = Time()
    auth = IamToken(clock=clock)
    first = auth.credentials(ENDPOINT, "app", 10.0)
    in_lambda.setenv(name, "rotated")
    second = auth.credentials(ENDPOINT, "app", 10.0)
    assert not second.cached
    assert second.password != first.password


def test_endpoints_users_and_regions_have_tokens_of_their_own(in_lambda: pytest.MonkeyPatch) -> None:
    auth = IamToken()
    tokens = {
        auth.token("one.example", 5432, "app"),
        auth.token("two.example", 5432, "app"),
        auth.token("one.example", 5433, "app"),
        auth.token("one.example", 5432, "bob"),
    }
    in_lambda.setenv("AWS_REGION", "eu-west-1")
    tokens.add(auth.token("one.example", 5432, "app"))
    assert len(tokens) == 5


def test_the_cache_is_bounded_and_loses_the_oldest(in_lambda: pytest.MonkeyPatch) -> None:
    auth = IamToken()
    for number in range(MAX_TOKENS + 1):
        auth.credentials(Endpoint(f"db{number}.example", 5432), "app", 10.0)
    assert len(auth._tokens) == MAX_TOKENS
    assert auth.credentials(Endpoint("db1.example", 5432), "app", 10.0).cached
    assert not auth.credentials(Endpoint("db0.example", 5432), "app", 10.0).cached


def test_a_refused_token_is_forgotten_and_no_other(in_lambda: pytest.MonkeyPatch) -> None:
    clock = Time()
    auth = IamToken(clock=clock)
    other = Endpoint("other.example", 5432)
    auth.credentials(other, "app", 10.0)
    auth.rejected(auth.credentials(ENDPOINT, "app", 10.0))
    assert not auth.credentials(ENDPOINT, "app", 10.0).cached
    assert auth.credentials(other, "app", 10.0).cached


def test_a_pickle_holds_no_token_and_no_key(in_lambda: pytest.MonkeyPatch) -> None:
    auth = IamToken("us-west-2")
    token = auth.token("db.example", 5432, "app")
    pickled = pickle.dumps(auth)
    assert not [text for text in (token, ACCESS_KEY, SECRET_KEY, SESSION_TOKEN) if text.encode() in pickled]
    found = pickle.loads(pickled)
    assert region_in(found.token("db.example", 5432, "app")) == "us-west-2"
    assert copy.deepcopy({"auth": auth})["auth"] is auth


def test_forget_forgets_all_even_under_a_lost_lock(in_lambda: pytest.MonkeyPatch) -> None:
    auth = IamToken()
    auth.credentials(ENDPOINT, "app", 10.0)
    auth._lock.acquire()  # as if held by a thread that a fork left behind
    auth.forget()
    assert not auth.credentials(ENDPOINT, "app", 10.0).cached


def test_a_signal_handler_that_signs_amid_signing_waits_for_nobody(in_lambda: pytest.MonkeyPatch) -> None:
    auth = IamToken()
    with auth._lock:  # what it interrupts
        assert not auth.credentials(ENDPOINT, "app", 10.0).cached
        auth.rejected(auth.credentials(ENDPOINT, "app", 10.0))
    auth.credentials(ENDPOINT, "app", 10.0)
    assert auth.credentials(ENDPOINT, "app", 10.0).cached


def test_threads_share_one_token(in_lambda: pytest.MonkeyPatch) -> None:
    auth = IamToken(clock=lambda: 1_800_000_000.0)
    start = threading.Barrier(8)
    found = []

    def sign() -> None:
        start.wait(10)
        found.append(auth.credentials(ENDPOINT, "app", 10.0))

    threads = [threading.Thread(target=sign) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(one.cached for one in found) == [False] + [True] * 7
    assert len({one.password for one in found}) == 1


# --- secrecy ----------------------------------------------------------------------------------------------------------


def test_nothing_shows_a_secret(in_lambda: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    auth = IamToken()
    found = auth.credentials(ENDPOINT, "app", 10.0)
    assert found.password is not None
    signature = found.password.reveal().rpartition("=")[2]
    shown = [repr(auth), str(auth), repr(found), repr(auth._tokens), auth.hint("db.example", "app"), caplog.text]
    for secret in (SECRET_KEY, SESSION_TOKEN, signature):
        assert all(secret not in text for text in shown)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
def test_credentials_that_are_not_text_stay_secret(in_lambda: pytest.MonkeyPatch, name: str) -> None:
    in_lambda.setenv(name, "sesame\udcff")  # how Python shows a byte that is not UTF-8
    with pytest.raises(CredentialsError, match=name) as caught:
        IamToken().token("db.example", 5432, "app")
    error: BaseException | None = caught.value
    assert error is not None
    assert error.__cause__ is None
    assert error.__context__ is None
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    package = [line for line in lines if "lambda_pool/auth" in line]
    assert package
    assert "sesame" not in "".join(package)


def test_half_a_key_pair_is_named(in_lambda: pytest.MonkeyPatch) -> None:
    in_lambda.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="AWS_SECRET_ACCESS_KEY is not"):
        IamToken().token("db.example", 5432, "app")


def test_the_hint_names_what_to_check(in_lambda: pytest.MonkeyPatch) -> None:
    hint = IamToken(clock=lambda: 0.0).hint(CLUSTER, "app")
    for part in ("'app'", "rds_iam", "AWSAuthenticationPlugin", f"{CLUSTER!r}", "us-west-2", "dbuser:", "1970-01-01"):
        assert part in hint


# --- imports ----------------------------------------------------------------------------------------------------------


def test_a_token_inside_lambda_needs_no_sdk(in_lambda: pytest.MonkeyPatch) -> None:
    script = (
        "import sys; from lambda_pool import IamToken; print(len(IamToken().token('db.example', 5432, 'app')));"
        "print([name for name in sys.modules if name.split('.')[0] in"
        " {'botocore', 'boto3', 'psycopg', 'pymysql', 'aws_lambda_powertools', 'asyncio', 'http', 'ssl'}])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    length, loaded = done.stdout.split("\n")[:2]
    assert 1_000 < int(length) < 1_500
    assert loaded == "[]"
    assert ACCESS_KEY not in done.stderr
