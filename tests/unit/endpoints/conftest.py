"""The AWS environment that Lambda gives, and two RDS APIs on loopback: moto's, and one that plays a script."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import botocore.session
import pytest
from botocore.stub import Stubber

from lambda_pool.endpoints.api import RdsApi
from tests.support.moto import empty

REGION = "eu-central-1"
SESSION_TOKEN = "IQoJb3JpZ2luX2VjEA+/very+secret=="


@pytest.fixture
def in_lambda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The AWS variables that Lambda gives every function, and none of the machine's own."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAEXAMPLEKEY000001")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret/key+example=1")
    monkeypatch.setenv("AWS_SESSION_TOKEN", SESSION_TOKEN)
    return monkeypatch


Answer = tuple[int, str] | None
"""Status and body; None hangs until the client gives up."""


class ScriptedApi:
    """An HTTP server that answers as `script` says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[dict[str, str]] = []
        self.signed: list[str] = []
        self.script: Callable[[dict[str, str]], Answer] = lambda request: (500, "")
        self._end = threading.Event()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                request = dict(parse_qsl(body))
                api.requests.append(request)
                api.signed.append(self.headers["Authorization"])
                answer = api.script(request)
                if answer is None:
                    api._end.wait(30)
                    self.close_connection = True
                    return
                status, text = answer
                self.send_response(status)
                self.send_header("Content-Type", "text/xml")
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._end.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@pytest.fixture
def scripted_api(in_lambda: pytest.MonkeyPatch) -> Iterator[ScriptedApi]:
    """The scripted API, where every client of the test finds it."""
    api = ScriptedApi()
    in_lambda.setenv("AWS_ENDPOINT_URL", api.url)
    try:
        yield api
    finally:
        api.close()


@pytest.fixture
def moto(moto_url: str, in_lambda: pytest.MonkeyPatch) -> Any:
    """An RDS client of an empty moto, which every client of the test finds."""
    in_lambda.setenv("AWS_ENDPOINT_URL", moto_url)
    empty(moto_url)
    return botocore.session.get_session().create_client("rds", region_name=REGION)


@pytest.fixture
def stubber(in_lambda: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """botocore's own stub of the RDS API, checked against its service model: for what moto lacks."""
    client = botocore.session.get_session().create_client("rds", region_name=REGION)
    in_lambda.setattr(RdsApi, "_client", lambda self, deadline: client)
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()
