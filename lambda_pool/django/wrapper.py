"""What the two engines have in common: a database wrapper of Django's that borrows where Django would connect."""

import logging
import sys
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, OperationalError
from django.db.backends.base.base import NO_DB_ALIAS
from django.db.backends.signals import connection_created
from django.db.backends.utils import debug_transaction
from django.db.transaction import Atomic
from django.utils.asyncio import async_unsafe

from .. import errors, unavailable
from ..config import in_lambda
from ..engines.base import AT_REST, INVALIDATES_POOL, Status
from ..invocation import at_most
from . import pools
from .borrowed import Borrowed
from .errors import ErrorWrapper, as_django

log: logging.Logger = logging.getLogger("lambda_pool")

_HIDDEN = (
    "an atomic() block ended normally, but an error inside of it was caught, so Django rolled it back: none of it "
    "is saved. Put what may fail into an atomic() of its own, and catch its error outside of that. If you want the "
    "rollback, call transaction.set_rollback(True)"
)
_BROKEN_OFF = errors.LambdaPoolError("an exception from a signal handler broke off the end of an atomic()")
_CLOSED = (
    "Django's %r was closed inside of atomic(), whose transaction is rolled back: none of it is saved. Call close() "
    "after the block"
)


class PooledWrapper:
    """A mixin in front of one of Django's DatabaseWrappers."""

    engine_name: str
    connection: Any
    _needs_rollback: bool = False
    _ended_well: bool = False
    """The atomic() that is being rolled back ended without an error."""
    settings_dict: dict[str, Any]
    alias: str
    autocommit: bool
    in_atomic_block: bool
    run_on_commit: list[Any]
    run_commit_hooks_on_set_autocommit_on: bool
    ensure_connection: Any

    def __init__(self, settings_dict: dict[str, Any], alias: str = DEFAULT_DB_ALIAS) -> None:
        super().__init__(settings_dict, alias)  # type: ignore[call-arg]
        self._borrowed: Borrowed | None = None
        self._found: tuple[pools.Wanted, pools.AliasPool] | None = None
        self._asked_to_roll_back = False
        """Somebody asked for a rollback of the innermost atomic() that has a savepoint, or of the outermost."""
        self._hid: errors.LambdaPoolError | None = None
        """What to say at the end of an atomic() in which an error was hidden."""
        self._in_outermost = False
        """An outermost atomic() has switched autocommit off, and switches it on again when it ends."""
        self.closed_amid: bool = False
        """Since an invocation began, it was closed inside of an atomic(), which Django ends without an error."""
        self.lost_an_answer: bool = False
        """Since then, the answer to a statement that may be saved was lost, and the code handled that error."""
        if in_lambda() and alias != NO_DB_ALIAS:
            # A wrong setting then fails the deployment and not the first user, and the shutdown can still be prepared.
            self.home()

    # --- the pool -----------------------------------------------------------------------------------------------------

    def home(self) -> pools.AliasPool:
        """The pool of this alias, as its settings are now. Raises SettingsError."""
        time_zone = (settings.USE_TZ, self.timezone_name)  # type: ignore[attr-defined]
        want = pools.wanted(self.alias, self.engine_name, self.settings_dict, time_zone)
        if self._found is None or self._found[0] != want:
            arguments = self.driver_arguments()
            if self.alias == NO_DB_ALIAS:  # for one or two statements, so it is not kept
                self._found = want, pools.make(want, arguments)
            else:
                self._found = want, pools.shared(want, arguments)
        return self._found[1]

    def driver_arguments(self) -> dict[str, Any]:
        """What Django would pass to the driver, without what belongs to the pool."""
        named = self.settings_dict
        options = {name: value for name, value in named["OPTIONS"].items() if name not in pools.OWN}
        # Django asks for a name, which may be in the environment.
        self.settings_dict = {**named, "NAME": named["NAME"] or "-", "OPTIONS": options}
        try:
            found: dict[str, Any] = self.get_connection_params()
        finally:
            self.settings_dict = named
        return {name: value for name, value in found.items() if name not in pools.LOGIN}

    def get_connection_params(self) -> dict[str, Any]:
        """Like Django's, also if the environment says which database it is, or HOST is None on MySQL."""
        named = self.settings_dict
        name = named["NAME"] if named["NAME"] != "" else self.home().pool.config.url.database or "-"
        self.settings_dict = {**named, "NAME": name, "HOST": named["HOST"] or ""}
        try:
            found: dict[str, Any] = super().get_connection_params()  # type: ignore[misc]
        finally:
            self.settings_dict = named
        return found

    # --- borrowing ----------------------------------------------------------------------------------------------------

    @async_unsafe
    def connect(self) -> None:
        """Borrow a connection. Django's own set-up runs once for each physical one, and becomes its baseline."""
        self._close()  # what an exception from a signal handler kept an earlier close() from giving back
        deadline, first = None, True
        while True:
            self._borrowed = borrowed = Borrowed(self.home(), self.alias, deadline)
            deadline, core = borrowed.deadline, borrowed.home.core
            try:
                with borrowed.limited(deadline.left()):
                    if borrowed.prepared:
                        self._resume(borrowed)
                    else:
                        self._prepare(borrowed)
            except BaseException as error:
                self._drop(error)
                if not unavailable.may_try_another(core, error.__cause__ or error, deadline, first=first):
                    raise
                first = False
            else:
                return

    def _prepare(self, borrowed: Borrowed) -> None:
        with borrowed.link.uncounted():  # it is done again after a reset
            super().connect()  # type: ignore[misc]
        if borrowed.link.status() not in AT_REST:  # with AUTOCOMMIT off
            borrowed.end(commit=True)
        borrowed.set_prepared()
        self._never_obsolete()

    def _resume(self, borrowed: Borrowed) -> None:
        """Do what Django's connect() does besides connecting."""
        self.check_settings()  # type: ignore[attr-defined]
        self.forget_blocks()
        self.errors_occurred = False
        self._never_obsolete()
        self.connection = self.get_new_connection({})
        self.autocommit = self.settings_dict["AUTOCOMMIT"]
        if connection_created.has_listeners(type(self)):
            with borrowed.link.uncounted():
                connection_created.send(sender=type(self), connection=self)
            borrowed.set_prepared()
        self.run_on_commit = []

    def _never_obsolete(self) -> None:
        """The pool checks its connections when it lends them, and ends those that are too old."""
        self.close_at: float | None = None
        self.health_check_enabled: bool = False
        self.health_check_done: bool = True

    @async_unsafe
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """The borrowed connection; `conn_params` were used when the pool was made."""
        return self.borrow().conn

    def borrow(self) -> Borrowed:
        """What it has borrowed. If that is nothing, it borrows now."""
        if self._borrowed is None:
            self._borrowed = Borrowed(self.home(), self.alias)
        return self._borrowed

    def close_if_health_check_failed(self) -> None:
        """Called before each use. A connection that is no longer ours is forgotten; one that is lost is replaced.

        Not inside of a transaction, whose first half would be missing.
        """
        borrowed = self._borrowed
        if borrowed is None:
            return
        if borrowed.taken() or (borrowed.failure is not None and self.autocommit and not self.in_atomic_block):
            self.close()

    def close_if_unusable_or_obsolete(self) -> None:
        """Called at the beginning and at the end of each request: give back. Like Django's, not inside of atomic()."""
        if self.connection is not None and not self.in_atomic_block:
            self.close()

    def close(self) -> None:
        """Give back. What is not committed is rolled back."""
        if self.in_atomic_block and self.is_in_transaction():
            log.warning(_CLOSED, self.alias)
            self.closed_amid = True
        super().close()  # type: ignore[misc]
        if self.closed_in_transaction:
            self.connection = None  # somebody else may have it by now

    def forget_blocks(self) -> None:
        """Leave every atomic(): its connection was given back."""
        self.in_atomic_block = self.closed_in_transaction = self.needs_rollback = False
        self.savepoint_ids: list[Any] = []
        self.atomic_blocks: list[Any] = []

    def _close(self) -> None:
        borrowed = self._borrowed
        if borrowed is None:
            return
        try:
            self._borrowed = None
            self.lost_an_answer |= not borrowed.taken() and borrowed.link.status() is Status.COMMITTING
            with self.wrap_database_errors:
                borrowed.give_back()
                if self.alias == NO_DB_ALIAS:
                    borrowed.home.pool.close()
        except BaseException:
            borrowed.give_back()  # if a signal handler broke this off before it had begun
            raise

    def is_usable(self) -> bool:
        return self._borrowed is not None and bool(super().is_usable())  # type: ignore[misc]

    def has_borrowed(self) -> bool:
        """True if it has a connection, which is still its own."""
        return self._borrowed is not None and not self._borrowed.taken()

    def is_in_transaction(self) -> bool:
        """True if it has a connection whose transaction is open."""
        borrowed = self._borrowed
        if borrowed is None or borrowed.taken():
            return False
        status = borrowed.link.status()
        alone = status is Status.COMMITTING and self.autocommit and not self.in_atomic_block
        return status not in AT_REST and not alone

    # --- transactions -------------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        borrowed = self._borrowed
        if borrowed is None:
            return
        try:
            with debug_transaction(self, "COMMIT"), self.wrap_database_errors:
                borrowed.end(commit=True)
        except Exception as error:
            if isinstance(error, errors.CommitUncertain) or borrowed.lost():
                self._drop(error)
            raise

    def _rollback(self) -> None:
        borrowed = self._borrowed
        if borrowed is None:
            return
        if self._ended_well and not self._asked_to_roll_back:
            self._hid = self._undone() or errors.NotCommitted(_HIDDEN)
        with debug_transaction(self, "ROLLBACK"), self.wrap_database_errors:
            borrowed.end(commit=False)
        if borrowed.lost():
            # The server has rolled back. Code that goes on must know that this is not the same connection.
            raise OperationalError("the connection was lost, and its transaction with it") from borrowed.failure

    def _undone(self) -> errors.LambdaPoolError | None:
        """What to say of a transaction that the server has undone by itself. PostgreSQL keeps its savepoints."""
        return None

    def _drop(self, error: BaseException) -> None:
        """Give back a connection that is of no more use, so that atomic() has none to switch to autocommit again.

        It would connect again for that and, if this failed, hide what became of COMMIT.
        """
        borrowed, self._borrowed = self._borrowed, None
        hooks = self.run_on_commit
        try:
            self.close()  # in which a subclass, such as the backend of django-tenants, forgets what it has set
        finally:
            self.connection, self.run_on_commit = None, hooks
            if borrowed is not None:
                borrowed.give_back(error.__cause__ or error)

    def set_autocommit(self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False) -> None:
        """Like Django's, but it opens no connection only to set what each new one has anyway.

        Raises OperationalError at the end of an atomic() that ended well and was rolled back for a hidden error.
        """
        hid, self._hid = self._hid, None
        self._asked_to_roll_back = False
        begins, ends = force_begin_transaction_with_broken_autocommit, self._in_outermost and autocommit
        try:
            self._in_outermost = begins
            borrowed = self._borrowed
            if ends and borrowed is not None and borrowed.link.status() not in AT_REST:
                self._drop(_BROKEN_OFF)  # on MySQL, switching autocommit on would save what was to be undone
            self._switch_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
        except BaseException as error:
            if begins or (ends and not self.autocommit):
                self._drop(error)  # what comes later must not end up in a transaction that nobody ends
            raise
        if hid is not None and self.home().core.config.unsaved == "raise":
            raise as_django(hid) from hid
        if hid is not None:
            log.warning("%s", hid)

    @property
    def needs_rollback(self) -> bool:
        """Like Django's. An atomic() that rolls back first sets it to False; only its frame shows how the block ended.

        Where a generator or an ExitStack has handled an error, sys.exc_info() still shows it.
        """
        return self._needs_rollback

    @needs_rollback.setter
    def needs_rollback(self, needs: bool) -> None:
        found = sys._getframe(1).f_locals if self._needs_rollback and not needs else {}
        self._ended_well = isinstance(found.get("self"), Atomic) and found.get("exc_type", Atomic) is None
        self._needs_rollback = needs

    def set_rollback(self, rollback: bool) -> None:
        """Like Django's. What is asked of an inner atomic() is not asked of the outer one that hid an error before."""
        super().set_rollback(rollback)  # type: ignore[misc]
        blocks = zip(reversed(self.atomic_blocks), reversed(self.savepoint_ids), strict=False)
        # None: Django was waiting for a rollback when that block began, and gave it no savepoint.
        savepoint = next((sid for block, sid in blocks if block.savepoint), "the outermost block has none")
        self._asked_to_roll_back = rollback and (savepoint is not None or self._asked_to_roll_back)

    def savepoint_rollback(self, sid: str) -> None:
        """Like Django's. The rollback that an inner atomic() was asked for goes no further.

        Raises NotCommitted at the end of an inner atomic() that ended well and was rolled back for a hidden error.
        """
        hidden = self._ended_well and not self._asked_to_roll_back
        self._asked_to_roll_back = self._ended_well = False
        super().savepoint_rollback(sid)  # type: ignore[misc]
        if hidden and self.home().core.config.unsaved == "raise":
            raise errors.NotCommitted(_HIDDEN)  # not Django's error, which atomic() would hide
        if hidden:
            log.warning("%s", _HIDDEN)

    def _switch_autocommit(self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool) -> None:
        self.close_if_health_check_failed()
        if self.connection is not None or not (autocommit and self.settings_dict["AUTOCOMMIT"]):
            super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)  # type: ignore[misc]
            return
        self.validate_no_atomic_block()  # type: ignore[attr-defined]
        self.autocommit = True
        if self.run_commit_hooks_on_set_autocommit_on:
            self.run_and_clear_commit_hooks()  # type: ignore[attr-defined]
            self.run_commit_hooks_on_set_autocommit_on = False

    def _set_autocommit(self, autocommit: bool) -> None:
        borrowed = self._borrowed
        open_before = borrowed is not None and borrowed.link.status() not in AT_REST
        if autocommit and open_before and self.engine_name == "mysql":
            self._commit()  # which the server would do by itself, but a lost answer would go unnoticed
            open_before = False
        try:
            with nullcontext() if borrowed is None else borrowed.limited(at_most(borrowed.home.core.config.timeout)):
                super()._set_autocommit(autocommit)  # type: ignore[misc]
        except DatabaseError as error:
            if borrowed is None or open_before or not (autocommit and self.settings_dict["AUTOCOMMIT"]):
                raise
            if not borrowed.lost():
                raise
            # Nothing was open: what was committed is saved, and the next connection begins in autocommit mode.
            log.debug("pool %s: lost after COMMIT: %s", borrowed.home.core.name, error)
            self._drop(error)

    # --- errors -------------------------------------------------------------------------------------------------------

    @cached_property
    def wrap_database_errors(self) -> ErrorWrapper:
        """Like Django's, for the pool's errors too."""
        return ErrorWrapper(self)

    def note_error(self, error: BaseException) -> None:
        """Note an error of the driver's that says that the connection, or its server, is not what it was."""
        borrowed = self._borrowed
        if borrowed is None or borrowed.failure is not None:
            return
        kind = borrowed.home.core.kind_of(borrowed.entry, error)
        if kind in INVALIDATES_POOL or not borrowed.entry.link.is_silent():
            borrowed.failure = error
