"""Execution environments of the genuine Lambda runtime, one for each way to connect."""

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lambda_pool.testing import LambdaRuntime

ROOT = Path(__file__).parent.parent


def environment(name: str, engine: str, url: str, *, timeout: int = 30) -> LambdaRuntime:
    """An environment, not yet started, whose function uses that way."""
    variables = {"WAY": name, "ENGINE": engine, "URL": url}
    return LambdaRuntime("benchmarks.function.handler", code_dir=ROOT, env=variables, timeout=timeout)


def open_all(
    stack: contextlib.ExitStack, names: Iterable[str], engine: str, url: str, *, timeout: int = 30
) -> dict[str, LambdaRuntime]:
    """Environments for these ways, started and invoked once."""
    opened = {}
    for name in names:
        opened[name] = stack.enter_context(environment(name, engine, url, timeout=timeout))
        answer = opened[name].invoke({"work": "one"})
        if answer.error is not None:
            raise RuntimeError(f"{name} cannot begin: {answer.error}\n{answer.log}")
    return opened


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process so far, to the nanosecond: /proc's schedstat counts what clocks round."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def answer_of(runtime: LambdaRuntime, event: dict[str, Any]) -> float:
    """Milliseconds of one invocation, which must succeed."""
    done = runtime.invoke(event)
    if done.error is not None:
        print(done.log, file=sys.stderr)
        raise RuntimeError(f"an invocation failed: {done.error}")
    return done.milliseconds
