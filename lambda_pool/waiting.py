"""The one seam for every wait: a descriptor, a pause, a turn in the queue, a lock, and who the borrower is.

All code of the package that waits does so through here. So another way of waiting is another class of a dozen methods,
`aio.waits.LoopWaits`, and not another pool. Waiting blocks the thread, unless that was loaded and the code runs for an
event loop.
"""

import select
import sys
from _thread import TIMEOUT_MAX, start_new_thread
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import Lock, get_ident
from time import sleep
from types import FrameType
from typing import TYPE_CHECKING, Any, Optional, Protocol, TypeVar

from .errors import ConfigError

if TYPE_CHECKING:
    from .aio.waits import LoopWaits
    from .endpoints.base import Role

T = TypeVar("T")
Outcome = tuple[Any, BaseException | None]
"""What a call returned, or raised."""

READ, WRITE = 1, 2
_LONGEST = 2**31 - 1
_MASKS = {READ: select.POLLIN, WRITE: select.POLLOUT, READ | WRITE: select.POLLIN | select.POLLOUT}


class OverdueError(TimeoutError):
    """A bound of the pool's own has passed. Of its own type, because a borrower may raise TimeoutError as well."""


class Turn(Protocol):
    """One borrower's place in a pool's queue."""

    owner: int
    role: "Role"

    @property
    def abandoned(self) -> bool:
        """True if nobody waits there now, and perhaps never will again. It is woken when it is passed over."""

    def wait(self, seconds: float) -> bool:
        """Wait for `wake`, at most this many seconds. False if it did not come."""

    def wake(self) -> None:
        """Let the borrower look again. The pool's lock is held, so no two threads wake it at once."""


class _Seam:
    """What is true of this process."""

    other: "LoopWaits | None" = None
    """Another way of waiting, once it was loaded."""
    plain: int = 0
    """The thread that blocks in any case, because it runs a signal handler."""


def install(other: "LoopWaits") -> None:
    """Let code wait in that way where `other.here()` is true."""
    _Seam.other = other


def _other() -> Optional["LoopWaits"]:
    other = _Seam.other
    return other if other is not None and _Seam.plain != get_ident() and other.here() else None


class plainly:  # noqa: N801 - used like a function
    """In this block, waiting blocks this thread: a signal handler must not let anything else run meanwhile."""

    def __enter__(self) -> None:
        self._before, _Seam.plain = _Seam.plain, get_ident()

    def __exit__(self, *_: object) -> None:
        _Seam.plain = self._before


def current_borrower() -> int:
    """Who borrows: a thread, by its number; or a task, by a negative one."""
    other = _Seam.other and _other()
    return other.current_borrower() if other else get_ident()


def check_patched() -> None:
    """Raises ConfigError if gevent patched Python's threads only after this module had imported the unpatched ones.

    Code that leaves threads as they are, as grequests does when it is imported, has no others that would wait.
    """
    monkey, its = sys.modules.get("gevent.monkey"), ("_thread", "start_new_thread")
    if monkey and monkey.is_object_patched(*its) and monkey.get_original(*its) is start_new_thread:
        raise ConfigError(
            "gevent patched Python's standard library after lambda_pool was imported, so whoever waits for a "
            "connection would hold up all others: call gevent.monkey.patch_all() before anything is imported. With "
            "gunicorn's preload_app, call it at the top of gunicorn.conf.py"
        )


def cannot_go_on(borrower: int) -> bool:
    """True for a task whose event loop was closed, or was left and may never run again."""
    return borrower < 0 and _Seam.other is not None and _Seam.other.cannot_go_on(borrower)


def is_stuck(borrower: int) -> bool:
    """True for a task whose event loop was closed amid its work: it never gives back what it holds."""
    return borrower < 0 and _Seam.other is not None and _Seam.other.is_stuck(borrower)


def pause(seconds: float) -> None:
    """Do nothing for this many seconds."""
    other = _Seam.other and _other()
    if other:
        other.pause(seconds)
    else:
        sleep(seconds)


def ready(fd: int, events: int, timeout: float | None) -> int:
    """Wait until a descriptor can be read or written, at most `timeout` seconds (None: without a limit).

    In and out: READ, WRITE or both. Out: 0 if the time ran out first.
    """
    other = _Seam.other and _other()
    return other.ready(fd, events, timeout) if other else poll(fd, events, timeout)


def poll(fd: int, events: int, timeout: float | None = 0.0) -> int:
    """The same, but it always blocks the thread."""
    poller = select.poll()
    poller.register(fd, _MASKS[events])
    found = poller.poll(None if timeout is None else min(max(timeout, 0.0) * 1000, _LONGEST))
    if not found:
        return 0
    seen = found[0][1]
    # An error or the end of the connection is for the driver to find, when it reads or writes as it wanted.
    got = (READ if seen & select.POLLIN else 0) | (WRITE if seen & select.POLLOUT else 0)
    return got & events or events


class FreeCheck:
    """What an open socket shows without waiting and without a round trip. For one thread at a time."""

    __slots__ = ("_poller",)

    def __init__(self, fd: int) -> None:
        self._poller = select.poll()
        self._poller.register(fd, select.POLLIN)

    def is_silent(self) -> bool:
        """False if something waits to be read, or the peer is gone."""
        return not self._poller.poll(0)


def turn(owner: int, role: "Role") -> Turn:
    """A place in the queue."""
    other = _Seam.other and _other()
    return other.turn(owner, role) if other else ThreadTurn(owner, role)


def hold(lock: Any, seconds: float) -> bool:
    """Acquire a thread lock, in at most this many seconds. False if that did not work."""
    return bool(lock.acquire(timeout=min(max(0.0, seconds), TIMEOUT_MAX)))


def while_held(lock: Any, seconds: float, call: Callable[..., T], *arguments: Any) -> T | None:
    """Make a call while a reentrant lock is held. None if another thread does not release it in this many seconds.

    The lock is released wherever a signal handler's exception breaks this off. A context manager could not promise
    that: such an exception may come between its methods and the block.
    """
    try:
        return call(*arguments) if hold(lock, seconds) else None
    finally:
        try:  # noqa: SIM105 - a signal handler could raise in the call of `suppress`, before the release
            lock.release()
        except RuntimeError:  # another thread's
            pass


def finish(awaitable: Awaitable[T]) -> T:
    """The result of an awaitable, such as each method of a connection for an event loop returns.

    At the end of an invocation, when no loop runs, it gets one of its own.
    """
    other = _other()
    if other is not None:
        return other.finish(awaitable)
    assert _Seam.other is not None  # code that has something to await has loaded it
    return _Seam.other.finish_alone(awaitable)


def within(seconds: float, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Make a call that has no time limit of its own, in at most `seconds`. Raises what it raises, or OverdueError.

    It runs in a thread of its own, which may outlast that time. So signals are handled meanwhile, and the other tasks
    of an event loop go on.
    """
    if seconds <= 0:
        raise OverdueError("no answer in time")
    made, other = partial(call, *arguments, **named), _Seam.other and _other()
    return other.within(seconds, made) if other else _in_a_thread(seconds, made)


def aside(seconds: float, call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Make a blocking call with a time limit of its own. On an event loop, as `within`, so that other tasks go on."""
    other = _Seam.other and _other()
    return other.within(seconds, partial(call, *arguments, **named)) if other else call(*arguments, **named)


def _in_a_thread(seconds: float, call: Callable[[], T]) -> T:
    ended = Lock()
    outcome: list[Outcome] = []

    def run() -> None:
        outcome.append(outcome_of(call))
        ended.release()

    ended.acquire()
    begin_beside(run)
    if not hold(ended, seconds):
        raise OverdueError("no answer in time")
    return result_of(outcome.pop())  # type: ignore[no-any-return]


def begin_beside(run: Callable[[], object]) -> None:
    """Run it in a thread of its own; at once in this one, if the process may not have more threads."""
    try:
        start_new_thread(run, ())
    except RuntimeError:
        run()


def outcome_of(call: Callable[[], Any]) -> Outcome:
    """Make a call, for another thread that wants its outcome."""
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - raised by `result_of`
        return None, error


def result_of(outcome: Outcome) -> Any:
    """The result of a call that another thread made. Raises what it raised."""
    value, error = outcome
    del outcome
    try:
        if error is not None:
            raise error
        return value
    finally:
        del error  # it refers to this frame


def unbroken(seconds: float) -> AbstractContextManager[None]:
    """In this block, a task's cancellation waits until the end of the block: for a COMMIT, whose answer must be heard.

    Once a cancellation has come, the block waits for at most `seconds` more.
    """
    other = _Seam.other and _other()
    return other.unbroken(seconds) if other else nullcontext()


def outer(frame: FrameType) -> FrameType | None:
    """The frame that called this one."""
    return frame.f_back or ((other := _other()) and other.outer(frame)) or None


class ThreadTurn:
    """A thread's place in a pool's queue."""

    __slots__ = ("_asleep", "owner", "role")

    abandoned: bool = False

    def __init__(self, owner: int, role: "Role") -> None:
        self.owner: int = owner
        self.role: Role = role
        self._asleep = Lock()
        self._asleep.acquire()

    def wait(self, seconds: float) -> bool:
        """Wait for `wake`, at most this many seconds. False if it did not come."""
        return self._asleep.acquire(timeout=seconds)

    def wake(self) -> None:
        """Let the borrower look again. The pool's lock is held, so no two threads wake it at once."""
        if self._asleep.locked():
            self._asleep.release()
