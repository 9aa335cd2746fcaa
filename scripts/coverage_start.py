"""Starts coverage.py in every process of `make coverage`, and saves its data before the process can be killed.

The genuine runtime ends by SIGKILL, which leaves no time for anything. So the data is written whenever the runtime asks
for its next event, and before a process sends SIGTERM to itself, as the polite end does.
"""

from __future__ import annotations

import _thread
import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_CLIENT = "awslambdaric.lambda_runtime_client"
# Writing takes 10 ms, and after the first invocations hardly any brings anything new.
_EACH, _THEN_EVERY = 30, 20


def begin(settings: str, data: str) -> None:
    """Measure this process with the settings of one file, and write into files that begin with `data`."""
    os.environ["COVERAGE_PROCESS_START"] = settings
    os.environ["COVERAGE_FILE"] = data
    import coverage

    coverage.process_startup()
    _thread.start_new_thread = _measured(_thread.start_new_thread)
    sys.meta_path.insert(0, _Finder())
    kill = os.kill

    def save_and_kill(pid: int, number: int) -> None:
        if pid == os.getpid() and number in {signal.SIGTERM, signal.SIGKILL}:
            save()
        kill(pid, number)

    os.kill = save_and_kill


def _measured(start: Callable[..., int]) -> Callable[..., int]:
    """The same for a thread that `threading` does not know about, because coverage.py would not see it."""

    def start_measured(function: Callable[..., object], args: tuple[Any, ...], *more: Any) -> int:
        def run(*args: Any, **named: Any) -> None:
            sys.settrace(threading.gettrace())
            function(*args, **named)

        return start(run, args, *more)

    return start_measured


def save() -> None:
    """Write what this process measured so far."""
    from coverage import Coverage

    running = Coverage.current()  # another one after a fork
    if running is not None:
        running.save()


class _Finder:
    """Finds the runtime's client, and wraps the wait for its next event."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _CLIENT:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_wrap(module: ModuleType) -> None:
            load(module)
            _wrap(module)

        spec.loader.exec_module = load_and_wrap  # type: ignore[method-assign]
        return spec


def _wrap(module: ModuleType) -> None:
    def wrapped(method: Any) -> Any:
        asked = 0

        def wait_next_invocation(self: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked < _EACH or asked % _THEN_EVERY == 0:
                save()
            return method(self)

        return wait_next_invocation

    for thing in vars(module).values():
        if isinstance(thing, type) and "wait_next_invocation" in vars(thing):
            setattr(thing, "wait_next_invocation", wrapped(vars(thing)["wait_next_invocation"]))  # noqa: B010
