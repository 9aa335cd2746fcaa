"""URLs and parts that name several hosts."""

import pytest

from lambda_pool import ConfigError, IamToken, Pool, RdsProxy
from lambda_pool.api import core_of
from lambda_pool.config import parse_url
from lambda_pool.endpoints.base import Endpoint, FixedEndpoint, Role

PROXY = "orders.proxy-abcdefghijkl.eu-central-1.rds.amazonaws.com"
DSQL = "abcdefghijklmnopqrstuvwxyz.dsql.eu-central-1.on.aws"


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("postgresql://app@one,two/d", [("one", None), ("two", None)]),
        ("postgresql://app@one:5433,two,[::1]:5434/d", [("one", 5433), ("two", None), ("::1", 5434)]),
        ("mysql://app:a,b@one:3307,two:3308/d", [("one", 3307), ("two", 3308)]),
        ("postgresql://app@%2Frun%2Fpg,two/d", [("/run/pg", None), ("two", None)]),
        ("postgresql://app@/d?host=one,two:5433", [("one", None), ("two", 5433)]),
        ("postgresql://app@:5444/d?host=one,two:5433", [("one", 5444), ("two", 5433)]),
        ("postgresql://app@/d?host=/run/a:b,/run/c", [("/run/a:b", None), ("/run/c", None)]),
        # As SQLAlchemy writes them, and renders them again.
        ("postgresql+psycopg://app@/d?host=one:5433&host=two:5434", [("one", 5433), ("two", 5434)]),
        ("postgresql://app@/d?host=one%3A5433&host=two%3A5434", [("one", 5433), ("two", 5434)]),
        ("postgresql://app@/d?host=one:5433", [("one", 5433)]),
        ("postgresql://app@/d?host=/cloudsql/a:b:c", [("/cloudsql/a:b:c", None)]),
        ("postgresql://app@/d?host=::1", [("::1", None)]),
        ("mysql://app@/d?host=one,two", [("one", None), ("two", None)]),
    ],
)
def test_several_hosts(url: str, addresses: list[tuple[str, int | None]]) -> None:
    found = parse_url(url)
    assert list(found.addresses) == addresses
    assert (found.host, found.port) == addresses[0]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://app:s3cr3t@one,,two/d", "a host is missing at a comma.*one.example:5432,two.example:5432"),
        ("postgresql://app:s3cr3t@one,/d", "a host is missing at a comma"),
        ("postgresql://app:s3cr3t@:5432,two/d", "a host is missing at a comma"),
        ("postgresql://app:s3cr3t@one:5432,two:0/d", "port 0 is not valid"),
        ("postgresql://one:5432,s3cr3t:s3cr3t/d", "port is not valid: it must be a whole number"),
        ("postgresql://app:s3cr3t@one%2Ctwo/d", "as it is, not as %2C"),
        ("postgresql://app:s3cr3t@one,two/d?host=three", "hosts in two places: 'one', and 'three'"),
        ("postgresql://app:s3cr3t@one,two/d?hostaddr=10.0.0.1", "several hosts, and hostaddr"),
        ("postgresql://app:s3cr3t@one,two x/d", "letters, digits"),
        ("postgresql://app:s3cr3t@/d?host=one&port=1,2", "'port'.*before the query"),
    ],
)
def test_wrong_lists_of_hosts(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse_url(url)
    assert "s3cr3t" not in str(caught.value)


def test_parts_with_several_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(host="one,two:5433,[::1]:5434", port=5432, user="app", database="d")
    wanted = (("one", 5432), ("two", 5433), ("::1", 5434))
    assert core_of(pool).config.url.addresses == wanted
    assert repr(pool).startswith("<Pool 'd' postgresql://one,two,::1/d ")
    for name, value in {"HOST": "one,two:5433,[::1]:5434", "PORT": "5432", "USER": "app", "DATABASE": "d"}.items():
        monkeypatch.setenv(f"DB_{name}", value)
    assert core_of(Pool.from_env("DB_")).config.url.addresses == wanted


@pytest.mark.parametrize("host", ["one,,two", "one,two:many", "one:s3cr3t,two"])
def test_parts_with_a_wrong_list(host: str) -> None:
    with pytest.raises(ConfigError, match=r"host is not valid.*commas in between") as caught:
        Pool(host=host, port=5432, user="app")
    assert "s3cr3t" not in str(caught.value)


def test_what_libpq_decides_by_looking_at_all_of_them() -> None:
    url = "postgresql://app@one,two/d"
    said = "target_session_attrs='prefer-standby' is not valid with several hosts"
    with pytest.raises(ConfigError, match=said):
        Pool(f"{url}?target_session_attrs=prefer-standby")
    with pytest.raises(ConfigError, match=said):
        Pool(url, connect_args={"target_session_attrs": "prefer-standby"})
    Pool("postgresql://app@one/d?target_session_attrs=prefer-standby")


def test_one_host_that_takes_little_decides_for_all() -> None:
    """What is prepared, or reset, on one of them may be lent to the same borrower on another."""
    assert core_of(Pool(f"postgresql://app@one,{PROXY}/d")).config.url.pooled
    assert core_of(Pool(f"postgresql://admin@{DSQL},{DSQL}/postgres", auth=IamToken())).config.url.pooled
    with pytest.raises(ConfigError, match="max_lifetime=4000 is not valid with Aurora DSQL"):
        Pool(f"postgresql://admin@one,{DSQL}/postgres", max_lifetime=4000)


# --- which of them ----------------------------------------------------------------------------------------------------

ONE, TWO, THREE = (Endpoint(name, 5432) for name in ("one", "two", "three"))


def test_they_are_used_in_turn() -> None:
    source = FixedEndpoint(ONE, TWO, THREE)
    seen = []
    for _ in range(4):
        seen.append(source.resolve(Role.READER, 0.0))
        source.failed(seen[-1])
    assert seen == [ONE, TWO, THREE, ONE]
    source.forget()
    assert source.resolve(Role.WRITER, 0.0) is ONE


def test_one_that_is_named_twice_is_not_in_the_way_of_the_next() -> None:
    source = FixedEndpoint(ONE, ONE, TWO)
    source.failed(ONE)
    assert source.resolve(Role.WRITER, 0.0) is TWO


def test_what_is_told_twice_or_late_moves_nobody() -> None:
    source = FixedEndpoint(ONE, TWO, THREE)
    for _ in range(3):  # three borrowers, whose connections died together
        source.failed(ONE.replace(proxy=True))  # as the connector notes it, where a secret alone names the host
    assert source.resolve(Role.WRITER, 0.0) is TWO
    source.failed(THREE)
    assert source.resolve(Role.WRITER, 0.0) is TWO


def test_one_alone_stays() -> None:
    source = FixedEndpoint(ONE)
    source.failed(ONE)
    assert source.resolve(Role.WRITER, 0.0) is ONE
    assert not source.several


def test_an_endpoint_of_ones_own_wins() -> None:
    source = RdsProxy("orders")
    assert core_of(Pool("postgresql://app@one,two/d", endpoint=source)).connector.endpoint is source
