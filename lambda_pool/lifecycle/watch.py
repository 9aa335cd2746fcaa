"""`cancel_before_deadline` where no signal can interrupt the borrower: in threads, and in a server's requests.

The process has one such thread, and only while there is something to watch: none is left when an environment freezes.
"""

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import ClassVar

from ..core.entry import Entry
from ..reclaim import cancel_running_of
from . import AGAIN, due_to_cancel

log: logging.Logger = logging.getLogger("lambda_pool")


class _Watched:
    """One invocation or request, the time `at` which it ends (monotonic, seconds), and the entries that are its own."""

    def __init__(self, at: float, before: float, concerned: Callable[[Entry], bool]) -> None:
        self.at = at
        self.stopped = False
        self._concerned = concerned
        self.next = max(at - before, monotonic() + AGAIN)

    def concerns(self, entry: Entry) -> bool:
        """Whether an entry is one of its own, as long as it has not ended. The pool's lock is held."""
        return not self.stopped and self._concerned(entry)

    def look(self) -> None:
        """Make the server end what runs too long."""
        now = monotonic()
        self.next = now + AGAIN
        for pool, before in due_to_cancel(self.at - now):
            try:
                # One thread asks for all. If the first ones take long, those after them have less time, or none.
                cancel_running_of(pool, min(now, self.at - before * 2 / 3) + before / 3, self.concerns)
            except Exception as error:  # noqa: BLE001 - the next pool must get its look too
                log.debug("pool %s: cancelling before the deadline failed: %s", pool.name, error)


class _Thread:
    """What the one thread works on, and whether it runs."""

    changed = threading.Condition()
    watched: ClassVar[set[_Watched]] = set()
    runs = False


def watch(left: float, before: float, concerned: Callable[[Entry], bool]) -> Callable[[], None]:
    """Cancel what runs on the `concerned` entries from `before` seconds ahead of the end, which is in `left` seconds.

    Out: a function that stops this.
    """
    watched = _Watched(monotonic() + left, before, concerned)
    with _Thread.changed:
        _Thread.watched.add(watched)
        if _Thread.runs:
            _Thread.changed.notify()
        else:
            _start()

    def stop() -> None:
        watched.stopped = True
        with _Thread.changed:
            _Thread.watched.discard(watched)
            _Thread.changed.notify()

    return stop


def _start() -> None:
    try:
        threading.Thread(target=_run, name="lambda_pool deadlines", daemon=True).start()
    except RuntimeError as error:  # the process may not have more; the next request tries again
        log.warning("no thread can be started, so cancel_before_deadline has no effect now: %s", error)
    else:
        _Thread.runs = True


def start_afresh() -> None:
    """Forget everything in a forked child: the thread stayed in the parent."""
    _Thread.changed = threading.Condition()
    _Thread.watched = set()
    _Thread.runs = False


def _run() -> None:
    while True:
        with _Thread.changed:
            if not _Thread.watched:
                _Thread.runs = False
                return
            first = min(_Thread.watched, key=lambda watched: watched.next)
            wait = first.next - monotonic()
            if wait > 0:
                _Thread.changed.wait(wait)
                continue
        first.look()
