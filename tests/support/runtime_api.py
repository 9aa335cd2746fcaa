"""The parts of Lambda's Runtime API that the emulator lacks: restoring snapshots, and several workers at once.

The runtime that talks to it is the genuine one.
"""

import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Lock, Thread
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import lambda_pool
from lambda_pool.testing.processes import descendants, is_alive, send, wait_gone

ROOT = Path(lambda_pool.__file__).parent.parent
"""The library under test, for interpreters that may have another one installed."""

_WAIT = 30.0  # seconds: a limit in case something hangs


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A killed runtime breaks its connections, which is expected; any other error is reported."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class RuntimeApi:
    """Hands out events, takes answers, and restores snapshots when told to. `requests`: the requests, in order."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.snapshots = queue.Queue[None]()
        """One entry for each snapshot that is ready to be taken."""
        self.restored = Event()
        self._closed = Event()
        self._lock = Lock()
        self._events = queue.Queue[tuple[str, bytes]]()
        self._answers: dict[str, queue.Queue[tuple[str, Any]]] = {}
        self._seconds = 30.0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self.restored.set()
        self._server.shutdown()
        self._server.server_close()

    def invoke(self, *events: object) -> list[Any]:
        """Send events at the same time. Out: their answers. Raises AssertionError for one that failed."""
        ids = [str(uuid4()) for _ in events]
        for id, event in zip(ids, events, strict=True):
            self._answers[id] = queue.Queue()
            self._events.put((id, json.dumps(event).encode()))
        end = time.monotonic() + _WAIT
        answers = []
        for id in ids:
            try:
                answers.append(self._answers[id].get(timeout=max(end - time.monotonic(), 0.01)))
            except queue.Empty:
                raise AssertionError(f"no answer to {id}; asked were {self.requests[-3 * len(ids) :]}") from None
        assert {kind for kind, _ in answers} == {"response"}, answers
        return [answer for _, answer in answers]

    def asked(self, request: str) -> None:
        """Note a request."""
        with self._lock:
            self.requests.append(request)

    def next_event(self, asker: socket.socket) -> tuple[str, bytes] | None:
        """Wait for the next event. Out: None at the end, and if the one who asked has gone in the meantime."""
        while not self._closed.is_set() and not select.select([asker], [], [], 0)[0]:
            try:
                event = self._events.get(timeout=0.05)
            except queue.Empty:
                continue
            if not select.select([asker], [], [], 0)[0]:
                return event
            self._events.put(event)
        return None

    def answered(self, id: str, kind: str, body: bytes) -> None:
        """Take the runtime's answer to an event."""
        self._answers[id].put((kind, json.loads(body)))

    def deadline(self) -> str:
        """The deadline of an event that is handed out now, in milliseconds."""
        return str(int((time.time() + self._seconds) * 1000))

    def wait_closed(self) -> None:
        """For as long as an extension waits for its next event."""
        self._closed.wait()


def _handler(api: RuntimeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            api.asked(f"GET {self.path}")
            if self.path == "/2020-01-01/extension/event/next":
                api.wait_closed()
                self.close_connection = True
            elif self.path == "/2018-06-01/runtime/restore/next":
                api.snapshots.put(None)
                api.restored.wait()
                self._answer(200)
            elif self.path == "/2018-06-01/runtime/invocation/next":
                event = api.next_event(self.connection)
                if event is None:
                    self.close_connection = True
                    return
                arn = "arn:aws:lambda:us-east-1:123456789012:function:function"
                self._answer(
                    200,
                    event[1],
                    {
                        "Lambda-Runtime-Aws-Request-Id": event[0],
                        "Lambda-Runtime-Deadline-Ms": api.deadline(),
                        "Lambda-Runtime-Invoked-Function-Arn": arn,
                    },
                )
            else:
                self._answer(404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            api.asked(f"POST {self.path}")
            parts = self.path.split("/")
            if self.path == "/2020-01-01/extension/register":
                self._answer(200, b"{}", {"Lambda-Extension-Identifier": str(uuid4())})
                return
            if parts[3:4] == ["invocation"]:
                api.answered(parts[4], parts[5], body)
            self._answer(202)

        def _answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler


class Runtime:
    """The genuine runtime on a `RuntimeApi`: `python -m awslambdaric function.handler` in `folder`."""

    def __init__(
        self, api: RuntimeApi, folder: Path, *, env: Mapping[str, str], python: str | Path = sys.executable
    ) -> None:
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", "awslambdaric", "function.handler"],
                cwd=folder,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
                    "AWS_LAMBDA_RUNTIME_API": api.address,
                    "AWS_LAMBDA_FUNCTION_NAME": "function",
                    "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",
                    **env,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.log)
        everything = self.pids
        send(everything, signal.SIGKILL)
        self._process.wait()
        wait_gone(everything, 5.0)

    @property
    def pids(self) -> list[int]:
        """The runtime's first process and its descendants."""
        return [pid for pid in [self._process.pid, *descendants(self._process.pid)] if is_alive(pid)]

    @property
    def log(self) -> str:
        """Standard output and error so far."""
        return self._log.read_text(errors="replace")
