"""AWS's control planes on loopback, asking a role's policies before they answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl

from .iam import Role
from .stack import ACCOUNT, REGION

ARN = f"arn:aws:rds:{REGION}:{ACCOUNT}"
_XML = '<{name}Response xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><{name}Result>{body}</{name}Result></{name}Response>'
_DENIED = """<ErrorResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><Error><Type>Sender</Type>
<Code>AccessDenied</Code><Message>not authorized to perform: {action} on resource: {resource}</Message></Error>
<RequestId>1</RequestId></ErrorResponse>"""
_PROXY = """<DBProxies><member><DBProxyName>orders</DBProxyName><Status>available</Status>
<EngineFamily>POSTGRESQL</EngineFamily><Endpoint>localhost</Endpoint></member></DBProxies>"""
_ENDPOINTS = """<DBProxyEndpoints><member><DBProxyEndpointName>readers</DBProxyEndpointName>
<DBProxyName>orders</DBProxyName><Status>available</Status><TargetRole>READ_ONLY</TargetRole>
<Endpoint>127.0.0.1</Endpoint></member></DBProxyEndpoints>"""
_CLUSTER = """<DBClusters><DBCluster><DBClusterIdentifier>orders</DBClusterIdentifier><Status>available</Status>
<Engine>{engine}</Engine><Endpoint>localhost</Endpoint><Port>{port}</Port></DBCluster></DBClusters>"""


class GuardedAws:
    """RDS and Secrets Manager. `asked` are the actions and resources that were asked for, in order."""

    def __init__(self, role: Role, *, engine: str, port: int, secret_arn: str, key_arn: str, secret: str) -> None:
        self.role = role
        self.asked: list[tuple[str, str]] = []
        self._engine = engine
        self._port = port
        self._secret_arn = secret_arn
        self._key_arn = key_arn
        self._secret = secret
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def may(self, action: str, resource: str, **context: str) -> bool:
        """Note the request and ask the role."""
        self.asked.append((action, resource))
        return self.role.allows(action, resource, context)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        aws = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                target = self.headers.get("X-Amz-Target", "")
                if target == "secretsmanager.GetSecretValue":
                    status, text = aws._secret_value(json.loads(body)["SecretId"])
                else:
                    status, text = aws._rds(dict(parse_qsl(body)))
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1" if target else "text/xml")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def _rds(self, request: dict[str, str]) -> tuple[int, str]:
        name = request["Action"]
        resource, body = {
            # By the service's own table of actions: a proxy's ARN ends in its id, a cluster's in its name.
            "DescribeDBProxies": (f"{ARN}:db-proxy:prx-0f0f0f0f0f0f0f0f0", _PROXY),
            "DescribeDBProxyEndpoints": (f"{ARN}:db-proxy:prx-0f0f0f0f0f0f0f0f0", _ENDPOINTS),
            "DescribeDBClusters": (
                f"{ARN}:cluster:{request.get('DBClusterIdentifier', '*')}",
                _CLUSTER.format(engine=self._engine, port=self._port),
            ),
        }[name]
        if not self.may(f"rds:{name}", resource):
            return 403, _DENIED.format(action=f"rds:{name}", resource=resource)
        return 200, _XML.format(name=name, body=body)

    def _secret_value(self, arn: str) -> tuple[int, str]:
        if not self.may("secretsmanager:GetSecretValue", arn):
            return 400, json.dumps({"__type": "AccessDeniedException", "message": "not authorized"})
        # A secret with a key of its own is decrypted with the caller's permission.
        via = f"secretsmanager.{REGION}.amazonaws.com"
        if self._key_arn and not self.may("kms:Decrypt", self._key_arn, **{"kms:ViaService": via}):
            return 400, json.dumps({"__type": "AccessDeniedException", "message": "Access to KMS is not allowed"})
        answer = {"ARN": arn, "Name": "orders", "VersionId": "v" * 32, "SecretString": self._secret}
        return 200, json.dumps({**answer, "VersionStages": ["AWSCURRENT"]})
