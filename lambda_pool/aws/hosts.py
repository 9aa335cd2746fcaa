"""What a host name alone says about the RDS or Aurora DSQL endpoint behind it: its kind, region and partition.

Only text is looked at: no DNS, no API call, no regular expression (this runs in a cold start).
"""

from enum import Enum

from ..errors import ConfigError
from ..record import Record

RDS_ENGINES = {
    "postgres": "postgresql",
    "postgresql": "postgresql",
    "aurora-postgresql": "postgresql",
    "mysql": "mysql",
    "mariadb": "mysql",
    "aurora": "mysql",
    "aurora-mysql": "mysql",
}
"""What RDS calls an engine, in its API and in its secrets, and the URL scheme that it belongs to.

`aurora` is what Aurora MySQL 5.6 called itself; `postgres` and `mysql` are also Multi-AZ DB clusters.
"""


class Kind(Enum):
    """What stands behind an RDS host name."""

    INSTANCE = "instance"
    WRITER = "cluster writer"
    READER = "cluster reader"
    CUSTOM = "custom cluster endpoint"
    GLOBAL = "global database writer"
    PROXY = "proxy"
    PROXY_ENDPOINT = "proxy endpoint"
    """A further endpoint of a proxy. Its name does not tell whether it is read-only."""
    OTHER = "other"
    """A form of endpoint that this version does not know, in RDS's own domain (shard groups, for example)."""


class RdsHost(Record):
    """One recognised host name, in lower case and without a trailing dot.

    `identifier`: the own name of the instance, cluster, proxy, custom endpoint or proxy endpoint. `region`: empty for a
    global database, whose writer moves between regions. `partition`: `aws`, `aws-cn`, `aws-us-gov`, ….
    """

    name: str
    kind: Kind
    identifier: str
    region: str
    partition: str

    @property
    def proxy(self) -> bool:
        """True where an RDS Proxy answers, rather than the database itself."""
        return self.kind in {Kind.PROXY, Kind.PROXY_ENDPOINT}


# Every partition's DNS suffix, as botocore's partitions.json lists them. GovCloud shares the first.
_PARTITIONS = (
    ("amazonaws.com", "aws"),
    ("amazonaws.com.cn", "aws-cn"),
    ("amazonaws.eu", "aws-eusc"),
    ("c2s.ic.gov", "aws-iso"),
    ("sc2s.sgov.gov", "aws-iso-b"),
    ("cloud.adc-e.uk", "aws-iso-e"),
    ("csp.hci.ic.gov", "aws-iso-f"),
)
_GOV = "us-gov-"
_SERVICES = frozenset({"rds", "rds-fips"})
# The start of the label after the name tells the kind. Longer prefixes are first. A hash of letters and digits follows.
# https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Aurora.Overview.Endpoints.html
_PREFIXES = (
    ("cluster-ro-", Kind.READER),
    ("cluster-custom-", Kind.CUSTOM),
    ("cluster-", Kind.WRITER),
    ("proxy-", Kind.PROXY),
)
_LONGEST = 253
"""Characters in a host name: RFC 1035, section 2.3.4."""


def recognise(host: str) -> RdsHost | None:
    """The RDS endpoint that a host name stands for, or None for every other name, address or path.

    Upper case and one trailing dot are accepted. Never raises, whatever the text.
    """
    # ASCII is checked first, because lower() turns the Kelvin sign into a "k".
    if not host.isascii() or len(host) > _LONGEST + 1:
        return None
    name = host.lower().removesuffix(".")
    suffix, partition = next((p for p in _PARTITIONS if name.endswith("." + p[0])), ("", ""))
    labels = name[: -len(suffix) - 1].split(".")
    # NAME.HASH.REGION.rds in most partitions; NAME.HASH.rds.REGION in China's and the US government's.
    if not suffix or len(labels) not in {4, 5} or not all(_is_label(label) for label in labels):
        return None
    *names, one, other = labels
    if other in _SERVICES:
        region = one
    elif one in _SERVICES:
        region = other
    else:
        return None
    if region == "global":
        if len(names) != 2 or not _after("global-", names[1]):
            return None
        return RdsHost(name, Kind.GLOBAL, names[0], "", partition)
    if not is_region(region):
        return None
    if partition == "aws" and region.startswith(_GOV):
        partition = "aws-us-gov"
    kind = _kind(names)
    return None if kind is None else RdsHost(name, kind, names[0], region, partition)


def dsql_region(host: str) -> str | None:
    """The region of the Aurora DSQL cluster that a host name stands for, or None for every other text.

    `CLUSTER.dsql.REGION.on.aws`, and behind a VPC endpoint `CLUSTER.dsql-SERVICE.REGION.on.aws`. Never raises.
    """
    if not host.isascii() or len(host) > _LONGEST + 1:
        return None
    labels = host.lower().removesuffix(".").split(".")
    if len(labels) != 5 or labels[3:] != ["on", "aws"] or not all(_is_label(label) for label in labels):
        return None
    cluster, service, region = labels[:3]
    known = cluster.isalnum() and (service == "dsql" or _after("dsql-", service)) and is_region(region)
    return region if known else None


def is_dsql(host: str) -> bool:
    """True for the host name of an Aurora DSQL cluster, which has no limit that a fleet could reach, and no timers."""
    return dsql_region(host) is not None


def _kind(names: list[str]) -> Kind | None:
    """The kind, from the labels before region and service: NAME.HASH, or NAME.endpoint.HASH."""
    last = names[-1]
    if len(names) == 3:
        return Kind.PROXY_ENDPOINT if names[1] == "endpoint" and _after("proxy-", last) else None
    for prefix, kind in _PREFIXES:
        if _after(prefix, last):
            return kind
    return Kind.INSTANCE if last.isalnum() else Kind.OTHER


def _after(prefix: str, label: str) -> bool:
    """True for the prefix followed by a hash."""
    return label.startswith(prefix) and label[len(prefix) :].isalnum()


def _is_label(label: str) -> bool:
    """True for one label of a host name: RFC 1123, section 2.1."""
    return 0 < len(label) <= 63 and label.replace("-", "a").isalnum() and label[0] != "-" and label[-1] != "-"


def checked_region(shown: str, region: str | None) -> str | None:
    """A region as a plain text, or None. Raises ConfigError, in which the argument is `shown`."""
    if region is not None and not (isinstance(region, str) and is_region(region)):
        raise ConfigError(f"{shown} is not valid: it must be an AWS region such as 'eu-central-1'")
    return region and str.__str__(region)


def is_region(name: str) -> bool:
    """True for a text shaped like a region's name: `eu-central-1`, `us-gov-west-1`, `eusc-de-east-1`."""
    *words, number = name.split("-")
    letters = "".join(words)
    return (
        name.isascii()
        and len(words) > 1
        and number.isdigit()
        and all(words)
        and letters.isalpha()
        and letters.islower()
    )
