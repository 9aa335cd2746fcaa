"""Lambda's runtime API under SnapStart, which the emulator lacks: Init, a snapshot, a restore, invocations.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html; Lambda's own runtime client asks
for `restore/next` after its hooks before the snapshot.
"""

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_PATIENCE = 20.0


class SnapStartEnvironment:
    """Runs a handler on awslambdaric. Entering waits until the snapshot can be taken; then call `restore`."""

    def __init__(self, handler: str, *, code_dir: Path, env: Mapping[str, str], log: Path) -> None:
        self._handler = handler
        self._code_dir = code_dir
        self._env = env
        self._log = log
        self._ready = threading.Event()
        self._restored = threading.Event()
        self._ended = threading.Event()
        self._events: queue.Queue[bytes] = queue.Queue()
        self._answers: queue.Queue[tuple[str, Any]] = queue.Queue()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._make_handler())
        self._server.daemon_threads = True
        self._process: subprocess.Popen[bytes] | None = None

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        environment = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path.endswith("/restore/next"):
                    environment._ready.set()
                    environment._wait(environment._restored)
                    self._answer(200, b"{}")
                elif self.path.endswith("/invocation/next"):
                    body = environment._next()
                    headers = {
                        # Lambda's client expects that they are there.
                        "Content-Type": "application/json",
                        "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Sampled=0",
                        "Lambda-Runtime-Aws-Request-Id": "11111111-2222-3333-4444-555555555555",
                        "Lambda-Runtime-Deadline-Ms": str(int(time.time() * 1000) + 10_000),
                        "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-central-1:123456789012:function:f",
                    }
                    self._answer(200, body, headers)
                else:  # an extension asks for its next event: there is never one
                    environment._ended.wait(60)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.path.endswith("/extension/register"):
                    self._answer(200, b"{}", {"Lambda-Extension-Identifier": "1"})
                    return
                environment._answers.put((self.path.rpartition("/")[2], json.loads(body or b"null")))
                self._answer(202, b"{}")

            def _answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def _wait(self, event: threading.Event) -> None:
        while not self._ended.is_set() and not event.wait(0.02):
            pass

    def _next(self) -> bytes:
        while not self._ended.is_set():
            try:
                return self._events.get(timeout=0.02)
            except queue.Empty:
                continue
        return b"null"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        environment = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(self._code_dir),
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.12",
            "AWS_LAMBDA_FUNCTION_NAME": "function",
            "AWS_LAMBDA_FUNCTION_VERSION": "1",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_port}",
            **self._env,
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "awslambdaric", self._handler],
                cwd=self._code_dir,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if not self._ready.wait(_PATIENCE):
            self.__exit__(None, None, None)
            raise TimeoutError(f"no snapshot: {self._log.read_text()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def restore(self) -> None:
        """Continue from the snapshot."""
        self._restored.set()

    def invoke(self, event: object = None) -> Any:
        """Send an event and return the answer. Raises AssertionError with the error's text if there is one."""
        self._events.put(json.dumps(event or {}).encode())
        try:
            kind, payload = self._answers.get(timeout=_PATIENCE)
        except queue.Empty:
            raise TimeoutError(f"no answer: {self._log.read_text()}") from None
        assert kind == "response", payload
        return payload
