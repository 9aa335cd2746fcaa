"""Every place in our code: each bytecode that a thread is about to run, on each version of CPython."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident
from types import CodeType, FrameType
from typing import Any

import lambda_pool

OURS = str(Path(lambda_pool.__file__).parent)
_TOOLS = str(Path(lambda_pool.__file__).parent / "testing")

Step = Callable[[FrameType, int], None]
"""Gets the frame and the bytecode's offset. It must end without another call if it makes a signal pending."""


def _is_seen(code: CodeType, paths: tuple[str, ...]) -> bool:
    return code.co_filename.startswith(paths) and not code.co_filename.startswith(_TOOLS)


@contextmanager
def stepping(step: Step, paths: tuple[str, ...] = (OURS,)) -> Iterator[None]:
    """In this block and in this thread, `step` is called before each bytecode of the files below `paths`."""
    # From 3.12 on a trace function misses the bytecodes of a function's first call.
    begin, end = (_trace, _end_trace) if sys.version_info < (3, 12) else (_monitor, _end_monitor)
    begin(step, paths)
    try:
        yield
    finally:
        end()


def _trace(step: Step, paths: tuple[str, ...]) -> None:
    def begin(frame: FrameType, event: str, argument: Any) -> Any:
        if not _is_seen(frame.f_code, paths):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return each

    def each(frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode":
            step(frame, frame.f_lasti)
        return each

    sys.settrace(begin)


def _end_trace() -> None:
    sys.settrace(None)


if sys.version_info >= (3, 12):
    _events = sys.monitoring.events
    _TOOL = sys.monitoring.DEBUGGER_ID

    def _monitor(step: Step, paths: tuple[str, ...]) -> None:
        thread = get_ident()

        def each(code: CodeType, offset: int) -> Any:
            if not _is_seen(code, paths):
                return sys.monitoring.DISABLE
            if get_ident() == thread:
                step(sys._getframe(1), offset)
            return None

        if sys.monitoring.get_tool(_TOOL) is None:
            sys.monitoring.use_tool_id(_TOOL, __name__)
        sys.monitoring.register_callback(_TOOL, _events.INSTRUCTION, each)
        sys.monitoring.restart_events()
        sys.monitoring.set_events(_TOOL, _events.INSTRUCTION)

    def _end_monitor() -> None:
        sys.monitoring.set_events(_TOOL, 0)
        sys.monitoring.register_callback(_TOOL, _events.INSTRUCTION, None)

else:
    _monitor, _end_monitor = _trace, _end_trace
