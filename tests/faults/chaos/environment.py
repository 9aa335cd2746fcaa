"""One execution environment of the ledger, its way to the server, and the faults that strike only this environment."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lambda_pool.testing import FaultyProxy, LambdaRuntime
from lambda_pool.testing.answers import LambdaRuntimeError
from lambda_pool.testing.processes import send, stop_family
from tests.support.runtime_api import ROOT

from .ground import Ground
from .schedule import Fault, Step, Way
from .vault import Rotating, Vault

PING_AFTER = 0.02
OPTIONS = {
    "timeout": 3.0,
    "connect_timeout": 1.0,
    "ping_after": PING_AFTER,
    "ping_timeout": 0.2,
    "cancel_before_deadline": 0.4,
}
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
"""glibc's own threshold, kept as it is (mallopt(3)): by default the first great block that is freed raises it, and then
rows of 200 kB, which fill a disk here, leave holes in the heap that a look at memory cannot tell from a leak."""
TIMEOUT = 10
"""Seconds of Lambda's own timeout: longer than any budget, so that being late is measured and not cut off."""


@dataclass
class Seen:
    """One invocation as its caller saw it."""

    step: Step
    environment: int
    began: float = 0.0
    ended: float = 0.0
    caller: str = ""
    """Empty for an answer, else the kind of error."""
    frozen: bool = False
    """A fault struck while the environment was frozen, and none since."""
    stopped: float = 0.0
    """Seconds for which the environment was held still in the middle of it."""


@dataclass
class Strike:
    """One fault that happened."""

    kind: str
    environment: int | None
    """None: the server's fault, which hits everybody."""
    frozen: bool
    began: float
    ended: float
    hit: list[str] = field(default_factory=list)
    """The units of the invocations that it met."""


class Environment:
    """An environment that is invoked, frozen and struck. `close` ends it."""

    def __init__(
        self,
        number: int,
        way: Way,
        ground: Ground,
        vault: Vault,
        folder: Path,
        env: dict[str, str] | None = None,
    ) -> None:
        self.number = number
        self.way = way
        self.user = f"environment{number}"
        self.strikes: list[Strike] = []
        self._ground = ground
        self._stack = ExitStack()
        self._folder = folder
        self._pid: int | None = None
        self._frozen: list[int] = []
        self._stopped = 0.0
        self._due: Fault | None = None
        self._healing: list[threading.Thread] = []
        self._problems: list[BaseException] = []
        ground.user(self.user)
        place: dict[str, Any] = {}
        url = ground.url(self.user)
        if way == "namespace":
            url = ground.url(self.user, inside=True)
            place = {"address": ground.namespace.address, "command_prefix": ground.namespace.prefix}
        else:
            self._proxy = self._stack.enter_context(FaultyProxy("127.0.0.1", ground.server.port))
            url = url.replace(f":{ground.server.port}/", f":{self._proxy.port}/")
        environment = {
            "NAME": self.user,
            "OPTIONS": json.dumps(OPTIONS),
            "DIARY": str(self.diary),
            "TRIGGER": str(folder / f"trigger-{number}"),
            "PYTHONPATH": str(ROOT),
            **RETURNED,
            **(env or {}),
        }
        if way == "secret":
            self.secret = Rotating(vault, ground, self.user, self._proxy.port)
            environment |= {"SECRET": self.secret.name, **vault.env}
            # Neither user nor host in the URL: the secret knows them.
            url = f"{ground.server.scheme}:///{ground.server.database}?{url.partition('?')[2]}"
        environment["URL"] = url
        if sys.version_info < (3, 12):
            # Lambda's runtime for 3.11 cannot run signal handlers while it waits: see tests/on_lambda/conftest.py.
            environment["AWS_EXECUTION_ENV"] = "AWS_Lambda_python3.12"
        self.runtime = LambdaRuntime(
            "function.handler", code_dir=Path(__file__).parent, env=environment, timeout=TIMEOUT, **place
        )
        self._stack.callback(self.runtime.close)
        self._listen()

    @property
    def diary(self) -> Path:
        """Where the function notes what it was told."""
        return self._folder / f"diary-{self.number}"

    def start(self) -> None:
        """Start the emulator; the first invocation starts the function."""
        self.runtime.start()

    def close(self) -> None:
        """End the environment and its way to the server. Raises what went wrong in one of its faults."""
        self._stack.close()
        if self._problems:
            raise self._problems[0]

    # --- invocations --------------------------------------------------------------------------------------------------

    def work(self, steps: tuple[Step, ...], *, frozen: bool = False) -> list[Seen]:
        """Invoke for each step in turn. `frozen`: the server had a fault while this was frozen, and none since."""
        return [self.invoke(step, frozen=frozen) for step in steps]

    def invoke(self, step: Step, *, frozen: bool = False) -> Seen:
        """One invocation, with its fault."""
        seen = Seen(step, self.number, frozen=frozen)
        event = {name: getattr(step, name) for name in ("unit", "door", "rows", "budget", "size")}
        self._stopped = 0.0
        self._due = step.fault
        if step.fault is not None and step.when == "point":
            event["point"] = step.point
        elif step.fault is not None:
            seen.frozen = step.when == "frozen" and self.freeze()
            self._strike(frozen=seen.frozen)
            if seen.frozen:
                self.settle(keep=True)
                self.thaw()
        seen.began = time.monotonic()
        try:
            error = self.runtime.invoke(event).error
            seen.caller = error["errorType"] if error else ""
        except (LambdaRuntimeError, TimeoutError) as problem:
            seen.caller = type(problem).__name__
        seen.ended = time.monotonic()
        self.settle()
        if step.fault is not None:
            # Sessions whose end the server has not noticed hold locks, and the next one would wait for them.
            self._ground.end_open_transactions(self.user)
        seen.stopped = self._stopped
        for strike in self.strikes[-1:] if step.fault is not None and self._due is None else ():
            strike.ended = max(strike.ended, time.monotonic())
            strike.hit = [step.unit]
        return seen

    def lead_to(self, port: int) -> None:
        """Make its way lead to another server."""
        self._proxy.lead_to(port)

    def sessions(self) -> int:
        """How many connections it has on the server."""
        return len(self._ground.sessions(self.user))

    # --- freezing -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The runtime's process, looked for only where it may have changed."""
        if self._pid is None or not Path(f"/proc/{self._pid}").exists():
            self._pid = self.runtime.pid
        return self._pid

    def freeze(self) -> bool:
        """Hold it still for longer than a connection may be silent. False if there is no process yet."""
        if self.pid is None:
            return False
        self._frozen = stop_family(self.pid)
        time.sleep(1.5 * PING_AFTER)
        return True

    def thaw(self) -> None:
        """Let it continue."""
        send(self._frozen[::-1], signal.SIGCONT)
        self._frozen = []

    # --- faults -------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """The function calls here when it has come to the point at which its fault is to strike."""
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(self._folder / f"trigger-{self.number}"))
        listener.listen()
        self._stack.callback(lambda: listener.shutdown(socket.SHUT_RDWR))

        def serve() -> None:
            with suppress(OSError):
                while True:
                    caller = listener.accept()[0]
                    with caller, suppress(OSError):
                        self._strike(frozen=False)
                        caller.sendall(b".")

        threading.Thread(target=serve, daemon=True).start()

    def _strike(self, *, frozen: bool) -> None:
        fault, self._due = self._due, None
        if fault is None:
            return
        began = time.monotonic()
        self.strikes.append(Strike(fault.kind, self.number, frozen, began, began))
        try:
            getattr(self, "_" + fault.kind.replace(", ", "_").replace(" ", "_"))(fault, frozen)
        except BaseException as problem:
            self._problems.append(problem)
            raise

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        def run() -> None:
            time.sleep(seconds)
            try:
                work()
            except BaseException as problem:
                self._problems.append(problem)

        thread = threading.Thread(target=run)
        self._healing.append(thread)
        thread.start()

    def settle(self, *, keep: bool = False) -> None:
        """Wait for the faults that heal by themselves, and heal the rest. With `keep`, the rest stays."""
        while self._healing:
            self._healing.pop().join()
        if keep:
            return
        if self.way == "namespace":
            self._ground.namespace.heal()
        else:
            self._proxy.heal()

    def _cut(self, fault: Fault, frozen: bool) -> None:
        assert fault.direction
        self._proxy.cut(after=fault.after, direction=fault.direction, new=fault.lasts)

    def _swallow(self, fault: Fault, frozen: bool) -> None:
        assert fault.direction
        self._proxy.swallow(fault.direction, after=0 if frozen else fault.after, new=fault.lasts and not frozen)

    def _black_hole(self, fault: Fault, frozen: bool) -> None:
        self._proxy.black_hole(new=fault.lasts and not frozen)

    def _reset(self, fault: Fault, frozen: bool) -> None:
        self._proxy.reset()

    def _end(self, fault: Fault, frozen: bool) -> None:
        self._proxy.close()

    def _delay(self, fault: Fault, frozen: bool) -> None:
        self._proxy.delay(fault.hold / 6)

    def _halve(self, fault: Fault, frozen: bool) -> None:
        assert fault.direction
        self._proxy.halve(fault.direction, pause=fault.hold / 6)

    def _refuse(self, fault: Fault, frozen: bool) -> None:
        self._proxy.refuse()
        self._proxy.reset()
        self._later(fault.hold, self._proxy.listen)

    def _lost_packets(self, fault: Fault, frozen: bool) -> None:
        self._ground.namespace.lose(self._ground.server.port)
        if not fault.lasts:
            self._later(fault.hold, self._ground.namespace.heal)

    def _session_ended(self, fault: Fault, frozen: bool) -> None:
        self._ground.end_sessions(self.user)

    def _session_ended_unheard(self, fault: Fault, frozen: bool) -> None:
        for port in self._ground.ports(self.user):
            self._ground.namespace.vanish(port)
        self._ground.end_sessions(self.user)

    def _statement_cancelled(self, fault: Fault, frozen: bool) -> None:
        self._later(fault.hold / 100, lambda: self._ground.cancel_statements(self.user))

    def _schema_changed(self, fault: Fault, frozen: bool) -> None:
        self._ground.add_column(self.user)

    def _login_refused(self, fault: Fault, frozen: bool) -> None:
        self._ground.lock(self.user)
        self._ground.end_sessions(self.user)
        self._later(fault.hold, lambda: self._ground.unlock(self.user))

    def _password_rotated(self, fault: Fault, frozen: bool) -> None:
        self.secret.change_password()
        self._ground.end_sessions(self.user)
        self._later(0.0 if frozen else fault.hold, self.secret.store)

    def _runtime_stopped(self, fault: Fault, frozen: bool) -> None:
        assert self.pid is not None
        began = time.monotonic()
        pids = stop_family(self.pid)

        def resume() -> None:
            send(pids[::-1], signal.SIGCONT)
            self._stopped += time.monotonic() - began

        self._later(fault.hold, resume)

    def _runtime_killed(self, fault: Fault, frozen: bool) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
