"""What a host name says of the RDS endpoint behind it."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lambda_pool.aws.hosts import Kind, RdsHost, is_region, recognise
from tests.support.speed import examples

HASH = "c0ffee123abc"


@pytest.mark.parametrize(
    ("host", "kind", "identifier", "region", "partition"),
    [
        (f"orders.{HASH}.eu-west-1.rds.amazonaws.com", Kind.INSTANCE, "orders", "eu-west-1", "aws"),
        (f"orders.cluster-{HASH}.us-east-2.rds.amazonaws.com", Kind.WRITER, "orders", "us-east-2", "aws"),
        (f"orders.cluster-ro-{HASH}.ap-southeast-4.rds.amazonaws.com", Kind.READER, "orders", "ap-southeast-4", "aws"),
        (f"mine.cluster-custom-{HASH}.sa-east-1.rds.amazonaws.com", Kind.CUSTOM, "mine", "sa-east-1", "aws"),
        (f"front.proxy-{HASH}.il-central-1.rds.amazonaws.com", Kind.PROXY, "front", "il-central-1", "aws"),
        (f"ro.endpoint.proxy-{HASH}.us-west-2.rds.amazonaws.com", Kind.PROXY_ENDPOINT, "ro", "us-west-2", "aws"),
        (f"all.global-{HASH}.global.rds.amazonaws.com", Kind.GLOBAL, "all", "", "aws"),
        (f"orders.shardgrp-{HASH}.us-east-1.rds.amazonaws.com", Kind.OTHER, "orders", "us-east-1", "aws"),
        # China's regions: the newer form and the older one.
        (f"orders.{HASH}.rds.cn-north-1.amazonaws.com.cn", Kind.INSTANCE, "orders", "cn-north-1", "aws-cn"),
        (f"orders.{HASH}.cn-northwest-1.rds.amazonaws.com.cn", Kind.INSTANCE, "orders", "cn-northwest-1", "aws-cn"),
        (f"o.cluster-ro-{HASH}.rds.cn-north-1.amazonaws.com.cn", Kind.READER, "o", "cn-north-1", "aws-cn"),
        (
            f"ro.endpoint.proxy-{HASH}.rds.cn-north-1.amazonaws.com.cn",
            Kind.PROXY_ENDPOINT,
            "ro",
            "cn-north-1",
            "aws-cn",
        ),
        # The US government's: both orders are met.
        (f"orders.{HASH}.us-gov-west-1.rds.amazonaws.com", Kind.INSTANCE, "orders", "us-gov-west-1", "aws-us-gov"),
        (f"o.cluster-{HASH}.rds.us-gov-east-1.amazonaws.com", Kind.WRITER, "o", "us-gov-east-1", "aws-us-gov"),
        (f"o.cluster-{HASH}.rds.us-iso-east-1.c2s.ic.gov", Kind.WRITER, "o", "us-iso-east-1", "aws-iso"),
        (f"o.proxy-{HASH}.eusc-de-east-1.rds.amazonaws.eu", Kind.PROXY, "o", "eusc-de-east-1", "aws-eusc"),
    ],
)
def test_every_documented_form(host: str, kind: Kind, identifier: str, region: str, partition: str) -> None:
    expected = RdsHost(host, kind, identifier, region, partition)
    assert recognise(host) == expected
    assert recognise(host.upper()) == expected
    assert recognise(host + ".") == expected
    assert expected.proxy == (kind in {Kind.PROXY, Kind.PROXY_ENDPOINT})


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "localhost",
        "127.0.0.1",
        "::1",
        "/var/run/postgresql",
        "db.example.com",
        "rds.amazonaws.com",
        "rds.eu-west-1.amazonaws.com",
        "eu-west-1.rds.amazonaws.com",
        f"{HASH}.eu-west-1.rds.amazonaws.com",
        f"a.b.{HASH}.eu-west-1.rds.amazonaws.com",
        f"ro.reader.proxy-{HASH}.eu-west-1.rds.amazonaws.com",
        f"ro.endpoint.{HASH}.eu-west-1.rds.amazonaws.com",
        f"orders.{HASH}.eu-west-1.rds.amazonaws.com..",
        f".{HASH}.eu-west-1.rds.amazonaws.com",
        f"-orders.{HASH}.eu-west-1.rds.amazonaws.com",
        f"orders_1.{HASH}.eu-west-1.rds.amazonaws.com",
        f"orders.{HASH}.eu-west.rds.amazonaws.com",
        f"orders.{HASH}.eu-west-1.ec2.amazonaws.com",
        f"orders.{HASH}.eu-west-1.rds.amazonaws.com.example.com",
        f"orders.{HASH}.eu-west-1.rdsamazonaws.com",
        f"orders.{HASH}.global.rds.amazonaws.com",
        # Redshift, DSQL and the Data API are other services.
        f"orders.{HASH}.eu-west-1.redshift.amazonaws.com",
        f"{HASH}.dsql.eu-west-1.on.aws",
        "rds-data.eu-west-1.api.aws",
        # The Kelvin sign, of which lower() makes a plain k.
        f"orders.{HASH}.eu-west-1.rds.amazonaws.com".replace("orders", "\u212aeks"),
        "a" * 64 + f".{HASH}.eu-west-1.rds.amazonaws.com",
        f"orders.{'a' * 300}.eu-west-1.rds.amazonaws.com",
    ],
)
def test_nothing_else(host: str) -> None:
    assert recognise(host) is None


def test_the_reader_beside_a_cluster() -> None:
    reader = recognise(f"Orders.cluster-ro-{HASH}.rds.cn-north-1.amazonaws.com.cn.")
    assert reader is not None
    assert (reader.kind, reader.identifier) == (Kind.READER, "orders")


_label = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?", fullmatch=True)
_parts = st.one_of(
    _label,
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "rds",
            "rds-fips",
            "amazonaws.com",
            "amazonaws.com.cn",
            "c2s.ic.gov",
            "eu-west-1",
            "us-gov-west-1",
            "global",
            "endpoint",
            f"cluster-{HASH}",
            f"cluster-ro-{HASH}",
            f"proxy-{HASH}",
            "cluster-",
            "-",
        ]
    ),
)
_ends = st.sampled_from(
    [f"{HASH}.eu-west-1.rds.amazonaws.com", f"proxy-{HASH}.us-gov-west-1.rds.amazonaws.com", "rds.amazonaws.com.cn"]
)
_hosts = st.one_of(
    st.text(max_size=300),
    st.lists(_parts, max_size=9).map(".".join),
    st.builds(lambda parts, end: ".".join([*parts, end]), st.lists(_parts, min_size=1, max_size=3), _ends),
)


@settings(max_examples=examples(10_000), deadline=None)
@given(_hosts)
@example("\x00")
def test_any_text_is_recognised_or_not(host: str) -> None:
    found = recognise(host)
    if found is not None:
        # What was found is in the text, where it should be.
        assert found.name == host.lower().removesuffix(".")
        assert found.name.startswith(found.identifier + ".")
        assert found.region in found.name.split(".") or found.kind is Kind.GLOBAL
        assert recognise(found.name) == found


_made = st.tuples(
    _label,
    st.sampled_from(
        [
            ("{}", Kind.INSTANCE),
            ("cluster-{}", Kind.WRITER),
            ("cluster-ro-{}", Kind.READER),
            ("cluster-custom-{}", Kind.CUSTOM),
            ("proxy-{}", Kind.PROXY),
            ("endpoint.proxy-{}", Kind.PROXY_ENDPOINT),
        ]
    ),
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
    st.from_regex(r"[a-z]{2,4}(-gov|-de)?-[a-z]{4,9}-[1-9]", fullmatch=True),
    st.sampled_from(
        ["{0}.rds.amazonaws.com", "rds.{0}.amazonaws.com", "rds.{0}.amazonaws.com.cn", "{0}.rds.c2s.ic.gov"]
    ),
)


@settings(max_examples=examples(2_000), deadline=None)
@given(_made)
def test_every_made_endpoint_is_recognised(parts: tuple[str, tuple[str, Kind], str, str, str]) -> None:
    name, (form, kind), number, region, tail = parts
    found = recognise(f"{name}.{form.format(number)}.{tail.format(region)}")
    assert found is not None
    assert (found.kind, found.identifier, found.region) == (kind, name.lower(), region)


def test_the_shape_of_a_region() -> None:
    for name in ("eu-central-1", "us-gov-west-1", "us-isob-east-1", "ap-southeast-12"):
        assert is_region(name)
    for name in (
        "",
        "-",
        "eu",
        "eu-1",
        "eu-central",
        "eu--1",
        "EU-central-1",
        "eu-central-\u0661",
        "eu-\u00e9st-1",
        "-a-1",
    ):
        assert not is_region(name)
