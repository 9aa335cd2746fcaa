"""RdsProxy and AuroraCluster whose endpoint changed between two invocations, on the genuine runtime, with moto."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from lambda_pool.testing import LambdaRuntime
from tests.support.moto import empty
from tests.support.names import Names
from tests.support.wire import Tap

from .conftest import Pair

pytestmark = pytest.mark.runtime

REGION = "eu-central-1"
KEYS = {"AWS_ACCESS_KEY_ID": "ASIAEXAMPLEKEY000001", "AWS_SECRET_ACCESS_KEY": "canary-of-a-secret-key"}

FUNCTION = """
import os, time
from pathlib import Path
from lambda_pool import AuroraCluster, Pool, RdsProxy

def clock():
    return time.time() + float(Path(os.environ["TRAVEL"]).read_text())

SOURCE = {"proxy": RdsProxy, "cluster": AuroraCluster}[os.environ["SOURCE"]]
MOVES = []

class Observer:
    def on_event(self, event):
        if type(event).__name__ == "EndpointRefreshed":
            MOVES.append(event.host)

POOL = Pool(os.environ["URL"], endpoint=SOURCE("orders", clock=clock), observers=[Observer()], timeout=15.0)

@POOL.handler
def handler(event, context, conn):
    with conn.cursor() as cursor:
        cursor.execute("select inet_server_port()" if "postgresql" in os.environ["URL"] else "select @@port")
        return cursor.fetchone()[0], MOVES, POOL.stats().connect_errors
"""


class Aws:
    """What moto says about `orders`: a proxy or a cluster, which can be made again."""

    def __init__(self, url: str, kind: str, engine: str, port: int) -> None:
        session = botocore.session.get_session()
        session.set_credentials("ASIAEXAMPLEKEY000001", KEYS["AWS_SECRET_ACCESS_KEY"])
        self._rds: Any = session.create_client("rds", region_name=REGION, endpoint_url=url)
        self._ec2: Any = session.create_client("ec2", region_name=REGION, endpoint_url=url)
        self._url, self._kind, self._engine, self._port = url, kind, engine, port

    def make(self) -> str:
        """Make it; returns its host name."""
        if self._kind == "proxy":
            subnets = self._ec2.describe_subnets()["Subnets"]
            made = self._rds.create_db_proxy(
                DBProxyName="orders",
                EngineFamily="POSTGRESQL" if self._engine == "postgresql" else "MYSQL",
                Auth=[{"AuthScheme": "SECRETS", "IAMAuth": "DISABLED"}],
                RoleArn="arn:aws:iam::123456789012:role/proxy",
                VpcSubnetIds=[subnets[0]["SubnetId"]],
            )["DBProxy"]
        else:
            made = self._rds.create_db_cluster(
                DBClusterIdentifier="orders",
                Engine=f"aurora-{self._engine}",
                MasterUsername="root",
                MasterUserPassword="topsecret1",
                Port=self._port,
            )["DBCluster"]
        return str(made["Endpoint"])

    def make_anew(self) -> str:
        """Make it once more, with another host name."""
        # Deleting a cluster keeps a snapshot. Its name has the time to the minute, and would clash with the next one.
        empty(self._url)
        return self.make()


@pytest.mark.parametrize("old_name", ["refuses", "is unknown"])
@pytest.mark.parametrize("kind", ["proxy", "cluster"])
@pytest.mark.sampled(1 / 2, "starts two servers, moto and the runtime")
def test_an_endpoint_that_moved_is_found_without_a_failed_invocation(
    pair: Pair, moto_url: str, tmp_path: Path, kind: str, old_name: str
) -> None:
    empty(moto_url)
    (tmp_path / "function.py").write_text(FUNCTION)
    travel = tmp_path / "travel"
    travel.write_text("0")
    port = 0
    if kind == "proxy":  # its port cannot be chosen
        port = 5432 if pair.engine == "postgresql" else 3306
    with ExitStack() as stack:
        old = stack.enter_context(Tap(pair.old.port, address="127.0.0.2", port=port))
        stack.enter_context(Tap(pair.new.port, address="127.0.0.3", port=old.port))
        names = stack.enter_context(Names())
        aws = Aws(moto_url, kind, pair.engine, old.port)
        first = aws.make()
        names.point({first: "127.0.0.2"})
        env = {
            **KEYS,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": moto_url,
            "SOURCE": kind,
            "TRAVEL": str(travel),
            "URL": pair.url("wherever.example"),
        }
        runtime = LambdaRuntime("function.handler", code_dir=tmp_path, env=env, command_prefix=names.prefix)
        stack.enter_context(runtime)
        answers = [runtime.invoke() for _ in range(2)]
        runtime.freeze()
        pair.fail_over("killed")  # without an error that would cause a look-up of the endpoint before a connect fails
        second = aws.make_anew()
        assert second != first
        names.point({second: "127.0.0.3"} if old_name == "is unknown" else {first: "127.0.0.2", second: "127.0.0.3"})
        # A minute, because within ten seconds of the last look-up nothing is looked up again.
        travel.write_text("60")
        runtime.thaw()
        answers += [runtime.invoke() for _ in range(2)]
        log = runtime.log
    assert [answer.error for answer in answers] == [None] * 4
    old_port, new_port = pair.old.port, pair.new.port
    assert [answer.payload[0] for answer in answers] == [old_port, old_port, new_port, new_port]
    assert answers[-1].payload[1:] == [[second], 1]
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in log
