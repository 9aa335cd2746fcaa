"""An exception that a signal handler raises, at every place in our code where CPython lets one in.

A Python signal handler runs where the interpreter looks for signals: when a function begins, after a call, when a
loop turns. So the signal is made pending just before the N-th such bytecode, for every N, and the interpreter lets it
in just like a deadline's alarm or a Ctrl-C. (An exception from the trace function itself could strike where no signal
can: between the last bytecode of a `with` block and its `__exit__`.)
"""

import ctypes
import dis
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tests.support.places import OURS, stepping
from tests.support.speed import FULL, seeded

_SIGNAL = signal.SIGUSR1
# A quick run strikes one of the first places, and from there on every twentieth.
_FIRST, _EACH = 10, 20

# Bytecodes that look for signals (CHECK_EVAL_BREAKER in CPython's source).
_LOOKS = {
    number
    for name, number in dis.opmap.items()
    if name.startswith(("CALL", "RESUME", "JUMP_BACKWARD")) and not name.endswith("NO_INTERRUPT")
}


class Interrupted(BaseException):
    """The signal's handler raises this. It is not an Exception, so that nobody takes it for the driver's."""


class _Pending(int):
    """A signal number; reading `arrives` makes the signal pending.

    An attribute, because the interpreter looks for signals after a call, and the trace function would catch it itself.
    """

    arrives = property(ctypes.pythonapi.PyErr_SetInterruptEx)


_NOW = _Pending(_SIGNAL)


class Interrupter:
    """Counts the places in the package's code, and makes the signal pending at one of them."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.where = ""

    def step(self, frame: FrameType, offset: int) -> None:
        """See `places.Step`."""
        if frame.f_code.co_code[offset] in _LOOKS:
            self.left -= 1
            if self.left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                _NOW.arrives  # noqa: B018 - see _Pending


def run_interrupted(work: Callable[[], object], at: int, paths: tuple[str, ...] = (OURS,)) -> str | None:
    """Run `work` with the signal arriving at its `at`-th such place (from 1). Out: the place; None if it ended before.

    Other exceptions of `work` are passed on; Interrupted is not.
    """
    interrupter = Interrupter(at)
    # An exception in a callback of the garbage collector would be lost.
    gc.disable()
    try:
        with stepping(interrupter.step, paths):
            work()
        _breathe()
    except Interrupted:
        pass
    finally:
        gc.enable()
    return interrupter.where or None


def _breathe() -> None:
    """A place where the interpreter lets in a signal that is still pending."""


@contextmanager
def handler() -> Iterator[None]:
    """Install the signal's handler."""

    def strike(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    before = signal.signal(_SIGNAL, strike)
    try:
        yield
    finally:
        signal.signal(_SIGNAL, before)


def every_place(
    prepare: Callable[[], Callable[[], object]], paths: tuple[str, ...] = (OURS,), *, least: int = _FIRST
) -> Iterator[str]:
    """For every place in turn: prepare, run the prepared work until the signal strikes there, and yield the place.

    In a quick run, only one of every few places is tried. There are at least `least` places.
    """
    first, step = (1, 1) if FULL else (seeded().randint(1, _FIRST), _EACH)
    with handler():
        for at in range(first, 1_000_000, step):
            where = run_interrupted(prepare(), at, paths)
            if where is None:
                assert at > least, "there is less to strike than there was"
                return
            yield where
