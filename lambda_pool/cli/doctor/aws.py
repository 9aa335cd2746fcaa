"""What AWS says about an identity: who it is, what time it is there, and which resource an IAM policy must name.

AWS is asked only after an IAM login was refused, and for a limited time. Without an answer everything else goes on.
"""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qs

from lambda_pool.aws.hosts import Kind, recognise
from lambda_pool.aws.identity import AwsIdentity
from lambda_pool.aws.sdk import code_of, create_client, load_session, no_bodies_logged
from lambda_pool.errors import LambdaPoolError
from lambda_pool.secret import Secret
from lambda_pool.waiting import within

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_PARTITIONS = {"cn": "aws-cn", "us-gov": "aws-us-gov"}


@dataclass
class Answer:
    """What was found; None for what was not. `ahead`: seconds that AWS's clock is ahead of ours."""

    arn: str | None = None
    account: str | None = None
    resource: str | None = None
    ahead: float | None = None
    problem: str | None = None
    end_to_end: bool = False
    """An RDS Proxy logs in to the database by IAM, too (DefaultAuthScheme=IAM_AUTH)."""

    @property
    def who(self) -> str:
        """Who needs a permission; a role is called by its name."""
        if self.arn is None:
            return "the function's role"
        kind, _, name = self.arn.rpartition(":")[2].partition("/")
        return f"role {name.partition('/')[0]}" if kind == "assumed-role" else self.arn


@dataclass
class Signed:
    """What a token says about itself, without its secrets. `at`: seconds since 1970."""

    at: float
    region: str


def read_token(token: Secret | None) -> Signed | None:
    """When and for which region a token was signed; None for a password."""
    query = parse_qs(token.reveal().partition("/?")[2]) if token is not None else {}
    try:
        stamp = time.strptime(query["X-Amz-Date"][0] + " UTC", "%Y%m%dT%H%M%SZ %Z")
        return Signed(float(calendar.timegm(stamp)), query["X-Amz-Credential"][0].split("/")[2])
    except (KeyError, ValueError, IndexError):
        return None


def ask(host: str, source: object, region: str, seconds: float) -> Answer:
    """Ask STS who we are, and the RDS API for the endpoint's resource id, within `seconds`. Never raises.

    `source`: the pool's endpoint source, which knows the name better than the host tells it.
    """
    answer, deadline = Answer(), time.monotonic() + seconds

    def work() -> None:
        keys = AwsIdentity().credentials(seconds)
        session = load_session()
        with no_bodies_logged():
            _ask_sts(create_client(session, "sts", region, keys, deadline), answer)
            rds = create_client(session, "rds", region, keys, deadline)
            answer.resource = _resource(rds, host, source, answer)

    try:
        within(seconds, work)
    except Exception as error:  # noqa: BLE001 - botocore's errors have no common root; a diagnosis goes on without
        answer.problem = _problem(error, "which resource this is" if answer.arn else "who this is")
    return answer


def _ask_sts(sts: Any, answer: Answer) -> None:
    sent, said = time.time(), {}
    try:
        said = sts.get_caller_identity()
        answer.arn, answer.account = said["Arn"], said["Account"]
    except Exception as error:
        said = getattr(error, "response", said)
        raise
    finally:
        if date := said.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date"):
            # The date is exact to a second only, and from some moment between question and answer.
            answer.ahead = parsedate_to_datetime(date).timestamp() + 0.5 - (sent + time.time()) / 2


def _problem(error: Exception, what: str) -> str:
    """One line without the error's own text, which may quote what is secret."""
    if isinstance(error, LambdaPoolError):
        return str(error)
    code = code_of(error)
    if code in _EXPIRED:
        return "AWS says that the credentials have expired: log in again, or let Lambda provide them."
    if code:
        return f"AWS did not say {what}: it answered {code}."
    return f"AWS could not be asked {what} ({type(error).__name__})."


def _resource(rds: Any, host: str, source: object, answer: Answer) -> str | None:
    """The id by which a policy names the endpoint's resource, or None; also notes how a proxy logs in itself."""
    from lambda_pool.endpoints.rds import AuroraCluster, RdsProxy

    known = recognise(host)
    kind = known.kind if known else None
    name = known.identifier if known else ""
    if isinstance(source, RdsProxy):
        kind, name = Kind.PROXY, source.name
    elif isinstance(source, AuroraCluster):
        kind, name = Kind.WRITER, source.name
    if kind is Kind.INSTANCE:
        return str(rds.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0]["DbiResourceId"])
    if kind in {Kind.WRITER, Kind.READER}:
        return str(rds.describe_db_clusters(DBClusterIdentifier=name)["DBClusters"][0]["DbClusterResourceId"])
    if kind is Kind.PROXY:
        proxy = rds.describe_db_proxies(DBProxyName=name)["DBProxies"][0]
        answer.end_to_end = proxy.get("DefaultAuthScheme") == "IAM_AUTH"
        return str(proxy["DBProxyArn"]).rpartition(":")[2]
    return None


def policy_arn(host: str, region: str, user: str, answer: Answer) -> str:
    """The resource that a policy must allow `rds-db:connect` on; placeholders in capitals for what is not known.

    https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/UsingWithRDS.IAMDBAuth.IAMPolicy.html
    """
    known = recognise(host)
    partition = next((name for prefix, name in _PARTITIONS.items() if region.startswith(f"{prefix}-")), "aws")
    partition = known.partition if known else partition
    resource = answer.resource or "RESOURCE-ID"
    return f"arn:{partition}:rds-db:{region}:{answer.account or 'ACCOUNT'}:dbuser:{resource}/{user}"
