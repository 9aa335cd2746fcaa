"""What is remembered of one borrow, from the statements' words and from what the server reports."""

from contextlib import suppress
from typing import Any

from pymysql.protocol import MysqlPacket

from ..base import Failure, uncertain
from .errors import classify
from .statements import COMMAND, Look

_UNDONE = (
    "the server undid this transaction when a statement of it failed ({}: {}): a COMMIT would save only what came "
    "after that. Call conn.rollback() before you try again"
)
_UNCLEAR = (
    "a statement that may end a transaction by itself failed ({}: {}), and the transaction is over: what came before "
    "it may be saved or undone. Call conn.rollback() before you go on, and look before you write it again"
)
# Errors with which a server refuses a COMMIT, also that of DDL: then nothing was committed.
_OF_COMMIT = frozenset({1180, 1213, 3100, 3101})
# What outlives a transaction.
_OF_SESSION = ("left_prepared", "changed", "moved", "isolation_changed", "role_changed", "locked", "named_lock")


class Noted:
    """What is known about one borrower's use of a connection."""

    transaction_unknown = False
    """A statement failed or streams, so the transaction flag of the last answer may be out of date."""
    streams: bool = False
    """The last statement's rows are read one by one: their last packet tells what the statement left behind."""
    seen: Look = COMMAND
    """The command that was sent last."""
    untold: bool = False
    """A command failed that may have begun or ended a transaction, and its error does not tell whether one is open."""
    doubt: tuple[Exception, Look] | None = None
    """The error of a statement inside of a transaction that the server may have undone; nobody has asked it yet."""
    undone: Exception | None = None
    """The error with which the server undid the whole transaction."""
    unclear: bool = False
    """Or the statement that failed may have saved what came before it."""
    incomplete: bool = False
    """The deadline ended a statement, and only that statement is undone: the rest must not be committed without it."""
    rollback_only: bool = False
    """An inner block of guarded work failed: what the transaction did must not be committed."""
    saving: bool = False
    """A command that commits was sent, and is not answered yet."""
    lost_commit: str = ""
    """The error's text if its answer and the connection were lost; the error itself refers to the connection."""
    guarded: bool = False
    """In `Pool.run`, which commits by itself."""
    ended: bool = False
    """The guarded transaction is over, by what the server said; or its statement can never succeed."""
    unsure: bool = False
    """It may be over: a statement was sent that may end a transaction and begin another."""
    left_prepared: str = ""
    """The identifier of what XA PREPARE prepared last, if XA COMMIT or XA ROLLBACK has not ended it since."""
    failed_with: tuple[Any, ...] = ()
    """The arguments of the last statement's error."""
    read_only: bool = False
    """A read-only transaction was asked for."""
    reader: bool = False
    """It was asked for when the connection was borrowed, so each transaction of the borrow is read-only."""
    changed: bool = False
    """The session is not as it was lent: the server said so, or a statement said so of itself."""
    moved: bool = False
    isolation_changed: bool = False
    role_changed: bool = False
    locked: bool = False
    named_lock: bool = False
    """What statements said of themselves: see `Look`."""

    def for_transaction(self, *, readonly: bool, guarded: bool) -> "Noted":
        """The notes on a transaction that the pool has begun. It may be one of several of the same borrow."""
        made = Noted()
        for name in _OF_SESSION:
            setattr(made, name, getattr(self, name))
        made.read_only = made.reader = readonly
        made.guarded = guarded
        return made

    def note(self, seen: Look, *, tracked: bool) -> None:
        """Note what a statement says of itself. `tracked`: the server will report the rest."""
        self.unsure |= seen.may_end
        self.changed |= seen.changes or (seen.sets and not tracked)
        self.moved |= seen.moves
        self.isolation_changed |= seen.transaction
        self.role_changed |= seen.role
        self.locked |= seen.locks
        self.named_lock |= seen.named_lock
        self.read_only |= seen.read_only

    def begin_anew(self) -> None:
        """Note that the borrower ended its transaction; if it must not be committed, by a rollback."""
        self.doubt = self.undone = None
        self.unclear = False
        if not self.guarded:
            self.incomplete = False

    def note_over(self, error: Exception, seen: Look) -> None:
        """Note what became of a transaction that is over since its statement `seen` failed with `error`."""
        if (seen.implicit or seen.begins) and not seen.several and error.args[0] not in _OF_COMMIT:
            # It had committed, and only then failed: nothing is lost except its own work.
            self.ended |= self.guarded
            self.incomplete = False
            return
        self.undone = error
        if seen.opaque or seen.several:
            self.unclear = classify(error) is not Failure.CONFLICT or seen.commits or seen.implicit
        else:
            self.unclear = seen.implicit or seen.begins

    def take_failure(self, *, told: bool) -> tuple[bool, Exception | None]:
        """The transaction ends. Out: whether it must not be committed, and the error to raise for that.

        The error is None unless `told`: `run` then starts again, as if its work had not swallowed the error.
        """
        lost = self.rollback_only or self.incomplete or self.undone is not None
        error = self.failed() if told and self.undone is not None else None
        self.rollback_only, self.incomplete, self.undone, self.unclear = False, False, None, False
        return lost, error

    def over(self) -> str:
        """What to say to a borrower that goes on in a transaction that is over."""
        return (_UNCLEAR if self.unclear else _UNDONE).format(type(self.undone).__name__, self.undone)

    def failed(self) -> Exception:
        """What to raise if nothing can be saved any more: the error that undid all, or that the outcome is unknown."""
        assert self.undone is not None
        return uncertain(self.over()) if self.unclear else again(self.undone)


def again(error: Exception) -> Exception:
    """A copy of an error, without the frames of the first one."""
    return type(error)(*error.args)


def reported(message: bytes) -> set[int]:
    """The kinds of change that an OK packet reports after its message.

    https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_basic_ok_packet.html#sect_protocol_basic_ok_packet_sessinfo
    """
    packets: Any = MysqlPacket  # untyped in its stubs
    kinds: set[int] = set()
    packet = packets(message, "latin1")
    packet.read_length_coded_string()
    changes = packet.read_length_coded_string() or b""
    packet = packets(changes, "latin1")
    with suppress(IndexError):  # where it ends
        while True:
            kind = packet.read_uint8()
            packet.read_length_coded_string()
            kinds.add(kind)
    return kinds
