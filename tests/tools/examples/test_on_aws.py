"""What two examples do on AWS, which their own tests do not play: discovery by the RDS API, and a snapshot."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lambda_pool.testing import LambdaRuntime, PostgresServer
from tests.on_lambda.databases import until
from tests.support.snapstart_api import SnapStartEnvironment
from tests.unit.endpoints.conftest import ScriptedApi

from .conftest import EXAMPLES

pytestmark = pytest.mark.runtime

CLUSTER = """<DescribeDBClustersResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><DescribeDBClustersResult>
<DBClusters><DBCluster><DBClusterIdentifier>orders</DBClusterIdentifier><Status>available</Status>
<Engine>aurora-postgresql</Engine><Endpoint>localhost</Endpoint><ReaderEndpoint>127.0.0.1</ReaderEndpoint>
<Port>{port}</Port></DBCluster></DBClusters></DescribeDBClustersResult></DescribeDBClustersResponse>"""


@pytest.fixture
def rds_api(postgres: PostgresServer) -> Iterator[ScriptedApi]:
    """The RDS API, which knows one cluster: its writer is `localhost`, its reader the same server as `127.0.0.1`."""
    api = ScriptedApi()
    api.script = lambda request: (200, CLUSTER.format(port=postgres.port))
    yield api
    api.close()


def test_reader_writer(lambda_rie: Path, postgres: PostgresServer, rds_api: ScriptedApi) -> None:
    postgres.execute("drop table if exists orders")
    postgres.execute((EXAMPLES / "reader_writer" / "schema.sql").read_text())
    env = {
        "LAMBDA_POOL_URL": postgres.url().replace(f"@localhost:{postgres.port}/", "@/"),
        "LAMBDA_POOL_AURORA_CLUSTER": "orders",
        "AWS_ENDPOINT_URL": rds_api.url,
        "AWS_ACCESS_KEY_ID": "ASIAEXAMPLEKEY000001",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with LambdaRuntime("app.handler", code_dir=EXAMPLES / "reader_writer", env=env) as runtime:
        assert runtime.invoke({"article": "tea"}).payload == {"host": "localhost"}
        assert runtime.invoke({}).payload == {"host": "127.0.0.1", "articles": ["tea"]}
        assert runtime.invoke({"article": "milk"}).payload == {"host": "localhost"}
        assert runtime.invoke({}).payload["articles"] == ["tea", "milk"]
    assert [asked["Action"] for asked in rds_api.requests] == ["DescribeDBClusters"]


def test_snapstart(postgres: PostgresServer, tmp_path: Path) -> None:
    env = {"LAMBDA_POOL_URL": postgres.url(), "LAMBDA_POOL_NAME": "snapped", "PYTHONDONTWRITEBYTECODE": "1"}
    count = "select pid from pg_stat_activity where application_name like '% snapped'"
    log = tmp_path / "log"
    with SnapStartEnvironment("app.handler", code_dir=EXAMPLES / "snapstart", env=env, log=log) as environment:
        until(lambda: postgres.execute(count) == [], 5)  # nothing is in the snapshot
        environment.restore()
        first, second = environment.invoke(), environment.invoke()
        [(backend,)] = postgres.execute(count)
    # One connection during Init, one during restore, and none for an invocation.
    assert first == second == {"backend": backend, "opened": 2}
