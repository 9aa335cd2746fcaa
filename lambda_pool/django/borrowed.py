"""One connection of the pool's, while one of Django's database wrappers has it."""

import sys
import threading
from contextlib import AbstractContextManager, suppress
from typing import Any
from weakref import ref

from ..core.entry import Entry, State
from ..engines.base import AT_REST, MIN_IO_TIMEOUT, Condition
from ..errors import LambdaPoolError, NotCommitted
from ..events import Reason
from ..invocation import Deadline
from ..release import end_transaction
from .pools import AliasPool


class _Held:
    """What a thread has borrowed. It ends with the thread, and gives back what the thread has left behind.

    Nothing but the thread may refer to it: others cannot get a connection that waits for the garbage collector.
    """

    def __init__(self) -> None:
        self.borrowed: set[Borrowed] = set()

    def __del__(self) -> None:
        if sys.is_finalizing():
            return
        for borrowed in list(self.borrowed):
            with suppress(Exception):  # nobody is left to be told
                borrowed.give_back(LambdaPoolError("its thread has ended"))


class _Local(threading.local):
    def __init__(self) -> None:
        self.held = _Held()


_here = _Local()


class Borrowed:
    """A lent connection. Raises what `Pool.connection()` raises."""

    __slots__ = ("_holder", "deadline", "entry", "failure", "given_back", "home", "link", "streams")

    def __init__(self, home: AliasPool, alias: str, deadline: Deadline | None = None) -> None:
        self.home: AliasPool = home
        self.failure: BaseException | None = None
        """The error that says that this connection, or its server, is not what it was."""
        config = home.core.config
        self.deadline: Deadline = deadline or Deadline(config.timeout, wake=config.wake_timeout)
        """The time until which it must be borrowed, and set up as Django wants it."""
        self.entry: Entry = home.core.acquire(home.role, self.deadline)
        self.entry.where = f"Django's connection {alias!r}"
        self.link: Any = self.entry.link
        self.streams: set[str] = set()
        """Names of the server's cursors that are open."""
        self.given_back: bool = False
        held = _here.held
        self._holder = ref(held)
        held.borrowed.add(self)

    @property
    def conn(self) -> Any:
        """The driver's own connection."""
        return self.link.driver_connection

    @property
    def pooled(self) -> bool:
        """True if a pooler stands between, whose sessions others use too."""
        return self.home.core.connector.is_pooled(self.entry.endpoint)

    @property
    def prepared(self) -> bool:
        """True if it is as Django wants it."""
        return self.link in self.home.prepared

    def limited(self, seconds: float) -> AbstractContextManager[None]:
        """In this block, what Django itself asks is answered within `seconds`, or the connection fails."""
        limited: AbstractContextManager[None] = self.link.limited(max(seconds, MIN_IO_TIMEOUT))
        return limited

    def set_prepared(self) -> None:
        """From now on it is lent as it is now."""
        self.link.set_baseline()
        self.home.prepared.add(self.link)

    def taken(self) -> bool:
        """True if it is no longer this borrower's: an ended invocation took it away, or it stayed with a parent."""
        if self.given_back:  # by the end of a thread: the entry may be lent to another one by now
            return True
        return self.entry.state is not State.LENT or self.entry.pid != self.home.core.pid

    def lost(self) -> bool:
        """True if it is known to be of no more use."""
        return self.failure is not None or self.taken() or not self.entry.link.is_silent()

    def end(self, *, commit: bool) -> None:
        """End the transaction, if one is open. Raises NotCommitted, CommitUncertain, or what the driver raises."""
        core = self.home.core
        if self.entry.pid != core.pid:  # a child of a fork leaves its parent's atomic(): nothing may be sent
            if commit:
                raise NotCommitted(
                    f"pool {core.name}: this connection belongs to the parent process, so nothing is committed: leave "
                    "atomic() before a fork, and enter it again in the child"
                )
            return
        end_transaction(core, self.entry, commit=commit, last=False)

    def give_back(self, error: BaseException | None = None) -> None:
        """Give it back, once. What is not committed is rolled back."""
        if self.given_back:  # by the end of the thread that borrowed it, where threads share a wrapper
            return
        self.given_back = True
        link, core, returned = self.link, self.home.core, self.entry.returned
        try:
            held = self._holder()
            if held is not None:
                held.borrowed.discard(self)
            error = error or self.failure
            if error is None and link.status() not in AT_REST:
                error = LambdaPoolError("closed in a transaction")
            if self.streams:  # only PostgreSQL has them; what Django closes itself does not change the session
                link.driver_connection.pooled.changed = True
            reset = core.config.reset
            may_reset = reset != "transaction" or core.config.url.engine == "mysql"
            if may_reset and (reset == "session" or link.inspect().condition is Condition.CHANGED):
                # The server may be about to forget what Django has set up.
                self.home.prepared.discard(link)
            core.release(self.entry, error, strict=False)
        except BaseException:
            if self.entry.returned == returned:  # a signal handler broke it off: it must not stay lent
                core.discard(self.entry, Reason.BROKEN)
            raise
