"""Run a handler on the genuine Lambda runtime, without Docker.

The genuine runtime is awslambdaric; the Runtime Interface Emulator (RIE) plays the Lambda service around it.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from lambda_pool.testing.answers import (
    LOG_BEGINS,
    TAIL_CHARACTERS,
    Invocation,
    LambdaInitError,
    LambdaRuntimeError,
    decode,
)
from lambda_pool.testing.ports import free_ports
from lambda_pool.testing.processes import (
    Guard,
    command_line,
    descendants,
    is_alive,
    listening_ports,
    send,
    stop_family,
    wait_gone,
    with_environment,
)

_INVOKE_PATH = "/2015-03-31/functions/function/invocations"
_NO_EVENT: dict[str, object] = {}
_START_SECONDS = 10.0
_START_ATTEMPTS = 5
# The emulator writes the END line just before or just after it answers.
_LOG_SETTLE_SECONDS = 0.25


@dataclass(frozen=True)
class Shutdown:
    """How an environment ended."""

    milliseconds: float
    """From Lambda's signal until the emulator, and with it the runtime, had ended."""
    exit_code: int | None
    """The emulator's exit code (negative: the signal that ended it)."""
    timed_out: bool
    """True if it did not end in time and was killed."""
    log: str
    """What was written meanwhile."""


def find_emulator() -> Path:
    """Return the path of aws-lambda-rie.

    Looks at the variable AWS_LAMBDA_RIE, then on PATH, beside this interpreter, and in an installed aws-sam-cli.
    Raises LambdaRuntimeError when there is none.
    """
    named = os.environ.get("AWS_LAMBDA_RIE")
    if named:
        if os.access(named, os.X_OK) and Path(named).is_file():
            return Path(named).resolve()
        raise LambdaRuntimeError(f"AWS_LAMBDA_RIE={named!r} is not an executable file: correct or unset it")
    # A virtual environment need not be activated for its programs to be found.
    on_path = shutil.which("aws-lambda-rie") or shutil.which("aws-lambda-rie", path=sysconfig.get_path("scripts"))
    if on_path:
        return Path(on_path).resolve()
    arch = "arm64" if platform.machine() in {"aarch64", "arm64"} else "x86_64"
    spec = importlib.util.find_spec("samcli")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        candidate = Path(folder) / "local" / "rapid" / f"aws-lambda-rie-{arch}"
        # pip does not keep the executable bit of package data, so a copy may be needed: see _executable.
        if candidate.is_file():
            return candidate
    raise LambdaRuntimeError(
        "aws-lambda-rie (the Lambda Runtime Interface Emulator) was not found: set AWS_LAMBDA_RIE to its"
        " path, put it on PATH, or `pip install --no-deps aws-sam-cli`, which brings it"
    )


@functools.cache
def _version_of(python: str, pythonpath: str) -> str:
    """`3.X` of that interpreter; raises unless it can import awslambdaric."""
    probe = (
        "import importlib.util as u, sys;print('%d.%d' % sys.version_info[:2], u.find_spec('awslambdaric') is not None)"
    )
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": pythonpath}
    try:
        done = subprocess.run(
            [python, "-c", probe], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise LambdaRuntimeError(f"python={python!r} cannot be run: {error}") from error
    if done.returncode != 0:
        raise LambdaRuntimeError(f"python={python!r} does not work: {done.stderr.strip()}")
    version, has_client = done.stdout.split()
    if has_client != "True":
        raise LambdaRuntimeError(
            f"python={python!r} (Python {version}) has no awslambdaric: `{python} -m pip install awslambdaric`"
        )
    return str(version)


def _is_done(log: str) -> bool:
    return "\nREPORT RequestId: " in log or "Waiting for runtime domain processes termination" in log


class LambdaRuntime:
    """One execution environment: the genuine runtime, its log, and the signals Lambda would send.

    The function is initialised by the first `invoke`, as the emulator does it. Use it as a context manager:
    nothing that it started is left running afterwards.
    """

    def __init__(
        self,
        handler: str,
        *,
        code_dir: str | Path,
        env: Mapping[str, str] | None = None,
        python: str | Path = sys.executable,
        timeout: int = 30,
        memory: int = 256,
        function_name: str = "function",
        address: str = "127.0.0.1",
        command_prefix: Sequence[str] = (),
    ) -> None:
        """Prepare an environment; nothing is started yet.

        handler: `module.function`, found in `code_dir`, which is also the working directory.
        env: added to the variables that Lambda itself sets. Nothing but PATH is taken from this process's
            environment; HOME is an empty directory. A PYTHONPATH in here is searched after `code_dir`.
        python: the interpreter, which needs awslambdaric.
        timeout: the function's timeout, whole seconds. The emulator bounds Init by it as well.
        memory: MiB, told to the function but not enforced.
        address: where the emulator listens for invocations; give one other than loopback only if a prefix puts
            the emulator into another network namespace.
        command_prefix: put in front of the emulator's command, such as `("taskset", "-c", "0")`.
        """
        if timeout != int(timeout) or timeout < 1:
            raise ValueError(f"timeout={timeout!r} is not valid: it must be a whole number of seconds, at least 1")
        for name, value in (env or {}).items():
            if not isinstance(value, str | bytes | os.PathLike):
                # The value is not shown: it may be a password.
                raise TypeError(
                    f"env[{name!r}] is of the type {type(value).__name__}: a variable's value must be a string"
                )
        self.handler = handler
        self.code_dir: Path = Path(code_dir).resolve()
        self.timeout: int = int(timeout)
        self.memory = memory
        self.function_name = function_name
        self.address = address
        self._env = dict(env or {})
        self._python = shutil.which(python) or str(python)
        self._prefix = list(command_prefix)
        self._stack = contextlib.ExitStack()
        self._folder: Path | None = None
        self._emulator: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._api_port = 0
        self._guard: Guard | None = None
        self._frozen: list[int] = []
        self._turn = threading.Lock()
        self._unanswered: int | None = None  # where the log ended when the event was sent that has no answer yet

    def __enter__(self) -> LambdaRuntime:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the emulator and wait until it listens. Raises LambdaRuntimeError if something is missing."""
        if self._emulator is not None and self._emulator.poll() is None:
            raise LambdaRuntimeError("the environment is running already")
        if not self.code_dir.is_dir():
            raise LambdaRuntimeError(f"code_dir={str(self.code_dir)!r} is not a directory")
        if self._folder is None:
            self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lambda-runtime-")))
            (self._folder / "home").mkdir()
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self) -> None:
        emulator = self._executable(find_emulator())
        environment = self._environment()
        for _ in range(_START_ATTEMPTS):
            if self._start_once(emulator, environment):
                return
            self.kill()  # a port was taken meanwhile, most likely: choose others
        raise LambdaRuntimeError(f"the emulator did not start{self._tail()}")

    def _executable(self, emulator: Path) -> Path:
        if os.access(emulator, os.X_OK):
            return emulator
        assert self._folder is not None
        copy = self._folder / "aws-lambda-rie"
        shutil.copyfile(emulator, copy)
        copy.chmod(0o755)
        return copy

    def _environment(self) -> dict[str, str]:
        assert self._folder is not None
        paths = [str(self.code_dir), *filter(None, [self._env.get("PYTHONPATH")])]
        pythonpath = os.pathsep.join(paths)
        version = _version_of(self._python, pythonpath)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._folder / "home"),
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "LAMBDA_TASK_ROOT": str(self.code_dir),
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{version}",
            **self._env,
            "AWS_LAMBDA_FUNCTION_NAME": self.function_name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(self.timeout),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory),
            "PYTHONPATH": pythonpath,
        }

    def _start_once(self, emulator: Path, environment: dict[str, str]) -> bool:
        assert self._folder is not None
        self._port, self._api_port = free_ports(2)
        command = [
            *self._prefix,
            str(emulator),
            "--runtime-interface-emulator-address",
            f"{self.address}:{self._port}",
            "--runtime-api-address",
            f"127.0.0.1:{self._api_port}",
            self._python,
            "-m",
            "awslambdaric",
            self.handler,
        ]
        # A file, not a pipe: nobody has to read for the function to go on. Several processes append to it.
        with self._log_path.open("ab") as log:
            try:
                self._emulator = subprocess.Popen(
                    command,
                    cwd=self.code_dir,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                )
            except OSError as error:
                raise LambdaRuntimeError(f"{command[0]!r} cannot be run: {error}") from error
        # The emulator ends what it started, frozen or not.
        self._guard = Guard(self._emulator.pid, signal.SIGTERM, self.code_dir, self._folder)
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._emulator.poll() is None:
            # These must be its own sockets: another process may have taken a port, and the emulator then ends.
            if {self._port, self._api_port} <= listening_ports(self._emulator.pid):
                return True
            time.sleep(0.01)
        return False

    @property
    def _log_path(self) -> Path:
        if self._folder is None:
            raise LambdaRuntimeError("not started: use `with LambdaRuntime(...) as runtime:`")
        return self._folder / "log"

    @property
    def log(self) -> str:
        """Everything written to standard output and error so far, by the function and by the emulator."""
        return self._log_since(0)

    def _log_since(self, offset: int) -> str:
        with self._log_path.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def _log_size(self) -> int:
        return self._log_path.stat().st_size

    def log_beside(self, error: str) -> str:
        """The end of the log without what an error's text already shows of it; empty after `close`."""
        if self._folder is None:
            return ""
        shown = error.partition(LOG_BEGINS)[2]
        log = self.log.replace(shown, "", 1) if shown else self.log
        return log[-TAIL_CHARACTERS:]

    def _tail(self, offset: int = 0) -> str:
        return f"{LOG_BEGINS}{self._log_since(offset)[-TAIL_CHARACTERS:]}"

    @property
    def pid(self) -> int | None:
        """The Python process of the runtime, or None while there is none (before the first `invoke`)."""
        if self._emulator is None:
            return None
        for pid in descendants(self._emulator.pid):
            # The whole command may be an argument of the prefix or the emulator: look at its beginning only.
            if command_line(pid)[1:3] == ["-m", "awslambdaric"]:
                return pid
        return None

    def invoke(self, event: object = _NO_EVENT, timeout: float | None = None) -> Invocation:
        """Send one event, as JSON, and return the answer; a handler's exception is in `Invocation.error`.

        event: by default an empty object, which Lambda sends if the caller gives none.
        timeout: longest wait for the answer in seconds; by default twice the function's timeout (Init and
            handler) and ten seconds.

        Raises LambdaInitError if Init fails, TimeoutError if no answer comes, LambdaRuntimeError if the
        emulator is gone, or the environment is frozen or still at work.
        """
        __tracebackhide__ = True  # pytest then shows the caller's line, and none of ours
        if self._emulator is None or self._emulator.poll() is not None:
            raise LambdaRuntimeError("the environment is not running: start it first")
        if self._frozen:
            raise LambdaRuntimeError("the environment is frozen: Lambda thaws it before an invocation, call thaw()")
        body = json.dumps(event).encode()
        wait = timeout if timeout is not None else 2 * self.timeout + 10.0
        offset = self._begin()
        connection = http.client.HTTPConnection(self.address, self._port, timeout=wait)
        started = time.perf_counter()
        try:
            connection.request("POST", _INVOKE_PATH, body)
            response = connection.getresponse()
            answer = response.read()
            self._unanswered = None
        except TimeoutError as error:
            raise TimeoutError(f"no answer within {wait} s{self._tail(offset)}") from error
        except (OSError, http.client.HTTPException) as error:
            raise LambdaRuntimeError(f"the emulator did not answer ({error!r}){self._tail(offset)}") from error
        finally:
            connection.close()
        milliseconds = (time.perf_counter() - started) * 1000
        log = self._settled_log(offset)
        payload, failure = decode(response.status, answer)
        if failure is not None and "INIT START(" in log and "INIT RTDONE(status: success)" not in log:
            raise LambdaInitError(
                f"Init of {self.handler!r} failed: {failure['errorType']}: {failure['errorMessage']}"
                f"{self._tail(offset)}"
            )
        return Invocation(payload, failure, milliseconds, log)

    def _begin(self) -> int:
        """Where the log ends before an event is sent. A second event at the same time would crash the emulator."""
        with self._turn:
            if self._unanswered is not None and not _is_done(self._log_since(self._unanswered)):
                raise LambdaRuntimeError("the environment is still at work, and takes one event at a time")
            self._unanswered = self._log_size()
            return self._unanswered

    def _settled_log(self, offset: int) -> str:
        until = time.monotonic() + _LOG_SETTLE_SECONDS
        while True:
            log = self._log_since(offset)
            if _is_done(log) or time.monotonic() >= until:
                return log
            time.sleep(0.001)

    def freeze(self) -> None:
        """Stop the runtime process and its children, as Lambda does between invocations; returns once all stopped."""
        pid = self.pid
        if pid is None:
            raise LambdaRuntimeError("there is no runtime process to freeze: invoke the function first")
        self._frozen = stop_family(pid)

    def thaw(self) -> None:
        """Let a frozen environment go on."""
        send(self._frozen[::-1], signal.SIGCONT)
        self._frozen = []

    def shutdown(self, timeout: float = 5.0) -> Shutdown:
        """Shut the environment down as Lambda does, and wait at most `timeout` seconds for its end.

        The runtime gets SIGKILL. If the function registered an extension, it gets SIGTERM and a short while instead.
        """
        if self._emulator is None:
            raise LambdaRuntimeError("the environment is not running: start it first")
        offset = self._log_size()
        ours = self._processes()
        timed_out = False
        started = time.perf_counter()
        self._emulator.send_signal(signal.SIGTERM)
        try:
            self._emulator.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        milliseconds = (time.perf_counter() - started) * 1000
        emulator = self._emulator
        self._end(ours)
        return Shutdown(milliseconds, emulator.returncode, timed_out, self._log_since(offset))

    def kill(self) -> None:
        """End everything at once with SIGKILL, as if the machine had gone."""
        self._end(self._processes())

    def close(self) -> None:
        """End everything that runs and remove the log; `__exit__` does this."""
        self.kill()
        self._stack.close()
        self._folder = None

    def _processes(self) -> list[int]:
        """The runtime and all that it started, even processes that left its process group or lost their parent."""
        if self._emulator is None:
            return []
        marked = with_environment(f"AWS_LAMBDA_RUNTIME_API=127.0.0.1:{self._api_port}")
        return [*dict.fromkeys([*descendants(self._emulator.pid), *marked])]

    def _end(self, ours: list[int]) -> None:
        if self._emulator is None:
            return
        # The emulator is ended first, so that it starts nothing new. SIGKILL also ends a stopped process.
        self._emulator.kill()
        self._emulator.wait()
        if self._guard is not None:
            self._guard.end()
            self._guard = None
        ours = [*dict.fromkeys([*ours, *self._processes()])]
        ours = [pid for pid in ours if is_alive(pid)]
        send(ours, signal.SIGKILL)
        wait_gone(ours, timeout=5.0)
        self._frozen, self._emulator, self._unanswered = [], None, None
