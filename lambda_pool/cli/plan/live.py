"""The figures that a database and an AWS account know about themselves. Read-only, and each within a few seconds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lambda_pool.aws import environment
from lambda_pool.cli.database import LOOKING, look, pool_of, rows

DAYS = 14
_PERIOD = 300
_TIMEOUT = 10.0


class Unknown(Exception):  # noqa: N818 - it is the answer that is unknown
    """A figure could not be found out; the text says why and what to give instead."""


@dataclass(frozen=True)
class Server:
    """What the database says: limits, and how many connections others hold."""

    max_connections: int
    reserved: int
    others: int


# Settings that keep connections for administrators. RDS's own is only on RDS, and later ones only on later servers.
_POSTGRES_SETTINGS = """
select sum(setting::int) filter (where name = 'max_connections'),
       coalesce(sum(setting::int) filter (where name <> 'max_connections'), 0)
from pg_settings
where name in ('max_connections', 'superuser_reserved_connections', 'reserved_connections',
               'rds.rds_superuser_reserved_connections')
"""
# A client has a user and a database; what else a session does is hidden from users without pg_read_all_stats.
_POSTGRES_OTHERS = """
select count(*) from pg_stat_activity
where usename is not null and datname is not null and (usename <> current_user or datname <> current_database())
"""
# MySQL's one connection for an administrator comes on top of max_connections. A user without PROCESS sees only its own.
_MYSQL_OTHERS = """
select count(*) from information_schema.processlist
where id <> connection_id() and command <> 'Daemon' and user not in ('system user', 'event_scheduler', 'rdsadmin')
  and user <> substring_index(current_user(), '@', 1)
"""


def ask_database(url: str | None, prefix: str) -> Server:
    """Ask the server at the URL, or at what the environment describes under `prefix`. Raises LambdaPoolError."""
    pool = pool_of(url, prefix, name="lambda-pool plan", options=LOOKING)
    try:
        return look(pool, _read_postgres if pool.config.url.engine == "postgresql" else _read_mysql)()
    finally:
        pool.close()


def _read_postgres(conn: Any) -> Server:
    ((limit, reserved),) = rows(conn, _POSTGRES_SETTINGS)
    ((others,),) = rows(conn, _POSTGRES_OTHERS)
    return Server(int(limit), int(reserved), int(others))


def _read_mysql(conn: Any) -> Server:
    ((limit,),) = rows(conn, "select @@max_connections")
    ((others,),) = rows(conn, _MYSQL_OTHERS)
    return Server(int(limit), 0, int(others))


@dataclass(frozen=True)
class Function:
    """What AWS says about a function; None where it says nothing."""

    reserved_concurrency: int | None
    account_concurrency: int | None
    workers: int | None
    max_size: int | None
    peak_environments: int | None
    peak_rate: float | None


def ask_aws(function: str, region: str | None, prefix: str) -> Function:
    """Ask Lambda and CloudWatch; the function's variables begin with `prefix`. Raises Unknown.

    Needs lambda:GetFunctionConfiguration, lambda:GetFunctionConcurrency, lambda:GetAccountSettings and
    cloudwatch:GetMetricData, for the user who runs this; the function itself needs none of them.
    """
    aws = client("lambda", region)
    described = call(aws, "get_function_configuration", FunctionName=function)
    managed = described.get("CapacityProviderConfig", {}).get("LambdaManagedInstancesCapacityProviderConfig", {})
    variables = described.get("Environment", {}).get("Variables", {})
    size = variables.get(f"{prefix}MAX_SIZE", "")
    limits = call(aws, "get_account_settings").get("AccountLimit", {})
    reserved = call(aws, "get_function_concurrency", FunctionName=function).get("ReservedConcurrentExecutions")
    peak, rate = ask_metrics(function, region)
    return Function(
        reserved_concurrency=reserved,
        # What is reserved for others is not this function's; what is reserved for it is counted above.
        account_concurrency=limits.get(
            "ConcurrentExecutions" if reserved is not None else "UnreservedConcurrentExecutions"
        ),
        workers=managed.get("PerExecutionEnvironmentMaxConcurrency"),
        max_size=int(size) if size.isdecimal() else None,
        peak_environments=peak,
        peak_rate=rate,
    )


def ask_metrics(function: str, region: str | None) -> tuple[int | None, float | None]:
    """The most environments at once and the most invocations a second, in the last two weeks."""
    cloudwatch = client("cloudwatch", region)
    until = datetime.now(UTC)
    queries = [
        {
            "Id": name.lower(),
            "MetricStat": {
                "Metric": {
                    "Namespace": "AWS/Lambda",
                    "MetricName": name,
                    "Dimensions": [{"Name": "FunctionName", "Value": function}],
                },
                "Period": _PERIOD,
                "Stat": statistic,
            },
        }
        for name, statistic in (("ConcurrentExecutions", "Maximum"), ("Invocations", "Sum"))
    ]
    answer = call(
        cloudwatch,
        "get_metric_data",
        MetricDataQueries=queries,
        StartTime=until - timedelta(days=DAYS),
        EndTime=until,
    )
    values = {result["Id"]: result.get("Values", []) for result in answer.get("MetricDataResults", [])}
    peak, invocations = values.get("concurrentexecutions", []), values.get("invocations", [])
    return (
        round(max(peak)) if peak else None,
        max(invocations) / _PERIOD if invocations else None,
    )


def ask_proxy(name: str, region: str | None) -> int:
    """MaxConnectionsPercent of a proxy's target group. Needs rds:DescribeDBProxyTargetGroups. Raises Unknown."""
    groups = call(client("rds", region), "describe_db_proxy_target_groups", DBProxyName=name).get("TargetGroups", [])
    for group in groups:
        percent = group.get("ConnectionPoolConfig", {}).get("MaxConnectionsPercent")
        if percent is not None:
            return int(percent)
    raise Unknown(f"the RDS API gave no MaxConnectionsPercent for the proxy {name!r}: give --proxy-percent")


def client(service: str, region: str | None) -> Any:
    """A botocore client. Raises Unknown without botocore, a region or credentials."""
    try:
        import botocore.session
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, NoRegionError
    except ImportError:
        raise Unknown("asking AWS needs botocore: pip install 'lambda-pool[aws]', or give the figures") from None
    config = Config(connect_timeout=5, read_timeout=_TIMEOUT, retries={"total_max_attempts": 2, "mode": "standard"})
    try:
        # AWS_REGION is Lambda's own variable, and not one that botocore reads.
        where = region or environment.region()
        return botocore.session.get_session().create_client(service, region_name=where, config=config)
    except NoRegionError:
        raise Unknown("which region to ask AWS in: give --region, or set AWS_REGION") from None
    except BotoCoreError as error:
        raise Unknown(f"AWS cannot be asked: {error}") from error


def call(aws: Any, operation: str, **parameters: Any) -> Any:
    """One call. Raises Unknown with AWS's own words."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return getattr(aws, operation)(**parameters)
    except (BotoCoreError, ClientError) as error:
        raise Unknown(f"AWS was asked, but did not say: {error}") from error
