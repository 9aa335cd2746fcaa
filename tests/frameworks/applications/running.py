"""uvicorn and gunicorn on loopback, with an application that a test wrote."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from lambda_pool.testing.ports import free_ports

AT_ONCE = 64
"""Requests that gunicorn takes at once."""


class Running:
    """The tests' own server, and requests to it. `application`: a module with `asgi_app` or `wsgi_app`."""

    def __init__(self, server: str, application: str, url: str, folder: Path) -> None:
        (folder / "served.py").write_text(application)
        [self.port] = [port] = free_ports(1)
        self.log = folder / "log"
        env = {**os.environ, "URL": url, "PYTHONPATH": str(folder), "AWS_LAMBDA_HTTP_ENDPOINT": f"127.0.0.1:{port}"}
        uvicorn = [sys.executable, "-m", "uvicorn", "served:asgi_app", "--port", str(port), "--loop"]
        gunicorn = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}"]
        command = {
            "uvicorn": [*uvicorn, "asyncio"],
            "uvloop": [*uvicorn, "uvloop"],
            "gunicorn": [*gunicorn, "served:wsgi_app", "--threads", str(AT_ONCE)],
            "gevent": [*gunicorn, "served:wsgi_app", "--worker-class", "gevent"],
            "uvicorn-worker": [*gunicorn, "served:asgi_app", "--worker-class", "uvicorn_worker.UvicornWorker"],
        }[server]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        until = time.monotonic() + 60
        while True:
            try:
                self.ask("GET", "/stats")
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < until, self.log.read_text()
                time.sleep(0.1)
            else:
                return

    def ask(self, method: str, path: str, timeout: float = 60) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def idle(self) -> list[int]:
        """The pool's figures once nothing is in use."""
        until = time.monotonic() + 30
        while True:
            found: list[int] = eval(self.ask("GET", "/stats")[1])
            if found[0] == 0 or time.monotonic() > until:
                return found
            time.sleep(0.1)

    def stop(self) -> None:
        # With its workers: not all of them check whether their parent is still there.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
