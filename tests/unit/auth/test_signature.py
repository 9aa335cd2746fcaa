"""Our token is botocore's token, byte for byte."""

import datetime
from types import SimpleNamespace
from typing import Any
from unittest import mock

import botocore.credentials
import botocore.signers
import pytest
from botocore.hooks import HierarchicalEmitter
from botocore.model import ServiceId
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lambda_pool.auth.iam import IamToken
from lambda_pool.auth.signature import VALID_FOR, sign
from lambda_pool.aws.environment import AwsCredentials
from lambda_pool.secret import Secret
from tests.support.speed import examples

UTC = datetime.UTC
# Any text that UTF-8 can carry, with what URLs and signatures treat specially made likely.
TEXT = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("+/=&?%~#:;@ \t\n\"'*$!()[]\\")))
USERS = TEXT.filter(bool)
SESSION_TOKENS = st.one_of(st.none(), TEXT.filter(bool), st.text("+/=ABCdef0189", min_size=900, max_size=1100))
KEYS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghij/+= ~", min_size=1, max_size=40)
LABELS = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
ADDRESSES = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(lambda address: f"[{address}]"))
REGIONS = st.sampled_from(
    ["us-east-1", "eu-central-1", "ap-southeast-5", "cn-north-1", "cn-northwest-1", "us-gov-west-1", "us-gov-east-1"]
)
HOSTS = st.one_of(
    st.lists(LABELS, min_size=1, max_size=6).map(".".join),
    st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join(labels) + "."),
    st.builds("{}.{}.{}.rds.amazonaws.com".format, LABELS, LABELS, REGIONS),
    st.builds("{}.{}.{}.rds.amazonaws.com.cn".format, LABELS, LABELS, REGIONS),
    st.builds("{}.cluster-ro-{}.{}.rds.amazonaws.com".format, LABELS, LABELS, REGIONS).map(str.upper),
    ADDRESSES,
    ADDRESSES.map(str.upper),
)
PORTS = st.one_of(st.integers(1, 65535), st.sampled_from([443, 80, 5432, 3306, 4430]))
TIMES = st.datetimes(datetime.datetime(1971, 1, 1), datetime.datetime(2106, 2, 7), timezones=st.just(UTC))


def botocores_token(
    host: str, port: int, user: str, region: str, credentials: AwsCredentials, when: datetime.datetime
) -> str:
    """What botocore's generate_db_auth_token gives at that moment."""
    token = credentials.session_token
    emitter = HierarchicalEmitter()  # the signer keeps a weak reference
    signer = botocore.signers.RequestSigner(
        ServiceId("RDS"),
        "eu-west-3",
        "rds",
        "v4",
        botocore.credentials.Credentials(
            credentials.access_key, credentials.secret_key.reveal(), token.reveal() if token else None
        ),
        emitter,
    )
    client: Any = SimpleNamespace(_request_signer=signer, meta=SimpleNamespace(region_name="eu-west-3"))
    with mock.patch("botocore.auth.get_current_datetime", lambda: when.replace(tzinfo=None)):
        return str(botocore.signers.generate_db_auth_token(client, host, port, user, region))


@pytest.mark.sampled(1 / 3, "5 s")
@given(HOSTS, PORTS, USERS, REGIONS, KEYS, KEYS, SESSION_TOKENS, TIMES)
@example("[::1]", 443, "a", "us-east-1", "K", "S", None, datetime.datetime(2026, 11, 20, 23, 59, 59, 999999, UTC))
@example(
    "DB.X.EU-WEST-1.RDS.AMAZONAWS.COM.",
    5432,
    " +%~ä\0",
    "cn-north-1",
    "K",
    "S",
    "=" * 900,
    datetime.datetime(2000, 2, 29, tzinfo=UTC),
)
@settings(max_examples=examples(5000), deadline=None)
def test_equals_botocore(
    host: str,
    port: int,
    user: str,
    region: str,
    access_key: str,
    secret_key: str,
    session_token: str | None,
    when: datetime.datetime,
) -> None:
    credentials = AwsCredentials(access_key, Secret(secret_key), Secret(session_token) if session_token else None)
    expected = botocores_token(host, port, user, region, credentials, when)

    assert sign(f"{host}:{port}", user, region, credentials, when.timestamp()) == expected

    environment = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key}
    if session_token and "\0" not in session_token:
        environment["AWS_SESSION_TOKEN"] = session_token
    elif session_token:
        return  # no environment variable can hold it
    with mock.patch.dict("os.environ", environment, clear=True):
        assert IamToken(region, clock=when.timestamp).token(host, port, user) == expected


def test_asks_for_the_time_that_rds_allows() -> None:
    token = sign("db:5432", "app", "eu-central-1", AwsCredentials("K", Secret("S"), None), 0)

    assert f"X-Amz-Expires={VALID_FOR}&" in token


def test_a_bare_ipv6_address_is_signed_in_brackets() -> None:
    # botocore refuses it, and psycopg wants it without.
    environment = {"AWS_ACCESS_KEY_ID": "K", "AWS_SECRET_ACCESS_KEY": "S"}
    with mock.patch.dict("os.environ", environment, clear=True):
        iam = IamToken("eu-central-1", clock=lambda: 0.0)
        assert iam.token("2001:db8::1", 5432, "app") == iam.token("[2001:db8::1]", 5432, "app")
