"""What a statement says of itself, comments in front or not. Text in, facts out; no driver.

It is asked for what the server does not report: which setting was changed, which lock is held, whether a transaction
may have ended and another begun. A stored procedure is out of reach.
"""

import re
from typing import NamedTuple

# Comments and the opening of those that are executed (`/*! … */`), blanks and brackets. What was passed over is not
# looked at again (`(?>`, `*+`): with thirty blanks in front of something else, trying every other way takes minutes.
_WORDS = re.compile(
    r"(?>[\s(;]|/\*m?!\d*|/\*(?!m?!).*?\*/|(?:#|--(?=\s))[^\n]*(?:\n|$))*+(\w+)(?>\s|\*/|/\*.*?\*/)*+(\w*)",
    re.DOTALL | re.IGNORECASE,
)
_LOOKED_AT = 1 << 16
"""Characters: what stands behind them is data."""

# First words of what leaves a transaction open, whether it succeeds or fails; CALL and others may commit on their way:
# https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
_PLAIN = frozenset({"select", "insert", "update", "delete", "replace", "with"})
_STAYING = (
    _PLAIN
    | {"values", "table", "do", "use", "savepoint", "release", "show", "explain", "describe", "desc"}
    | {"prepare", "deallocate"}
)
_ENDING_SET = re.compile(r"autocommit|password|statement", re.IGNORECASE)
_TO_SAVEPOINT = re.compile(r"\brollback\s+(?:work\s+)?to\b", re.IGNORECASE)

_BETWEEN = r"(?>\s|/\*.*?\*/)*+"
_NAMED_LOCK = re.compile(rf"\bget_lock{_BETWEEN}\(", re.IGNORECASE | re.DOTALL)
_VARIABLE = re.compile(rf"@[\w.$`'\"]+{_BETWEEN}:=|\binto{_BETWEEN}@", re.IGNORECASE | re.DOTALL)
# Of `SET SESSION TRANSACTION …` and of the variables transaction_isolation, tx_read_only and their kin.
_TRANSACTION = re.compile(r"transaction|\btx_|@tx_", re.IGNORECASE)
_READ_ONLY = re.compile(r"read[\s_]+only", re.IGNORECASE)
_TEMPORARY = re.compile(r"\btemporary\b", re.IGNORECASE)
_READ_LOCK = re.compile(r"with\s+read\s+lock|for\s+export", re.IGNORECASE)


class Look(NamedTuple):
    """What is known of a statement before it is sent."""

    may_end: bool = False
    """It may end the transaction that it runs in, or begin another."""
    begins_anew: bool = False
    """It begins or ends a transaction in so many words."""
    rolls_back: bool = False
    """It rolls a whole transaction back, in so many words."""
    transaction: bool = False
    """It sets isolation level or access mode."""
    read_only: bool = False
    """It asks for a read-only transaction."""
    moves: bool = False
    """It chooses another database."""
    role: bool = False
    """It takes on another role."""
    locks: bool = False
    """It takes a lock that no COMMIT releases: of tables, of the instance, of a backup, a HANDLER."""
    named_lock: bool = False
    """It takes a lock by GET_LOCK()."""
    changes: bool = False
    """It leaves something on the session that no server reports."""
    sets: bool = False
    """It leaves something on the session that a server of today reports."""


_NOTHING = Look()


def look(statement: str | bytes, *, several: bool) -> Look:
    """What a statement says of itself. `several`: it may be more than one, with semicolons between."""
    text = statement if isinstance(statement, str) else bytes(statement[:_LOOKED_AT]).decode("latin1")
    if several and ";" in text.rstrip("; \t\r\n"):
        parts = [_look(part) for part in text.split(";")]
        return Look(*(any(each) for each in zip(*parts, strict=True)))._replace(may_end=True, changes=True)
    return _look(text)


def _look(text: str) -> Look:
    match = _WORDS.match(text)
    if match is None:
        return Look(may_end=True, changes=True)
    first, second = match[1].lower(), match[2].lower()
    if first in _PLAIN:
        named = bool(_NAMED_LOCK.search(text, 0, _LOOKED_AT))
        if named or ("@" in text[:_LOOKED_AT] and _VARIABLE.search(text, 0, _LOOKED_AT)):
            return Look(named_lock=named, changes=True)
        return _NOTHING
    text = text[:_LOOKED_AT]
    locks = (
        first in {"lock", "handler"}
        or (first == "backup" and second != "unlock")
        or (first == "flush" and bool(_READ_LOCK.search(text)))
    )
    named_lock = bool(_NAMED_LOCK.search(text))
    role = first == "set" and second == "role"
    transaction = first == "set" and bool(_TRANSACTION.search(text))
    moves = first == "use"
    rolls_back = first == "rollback" and not _TO_SAVEPOINT.search(text)
    made = first == "create" and second in {"temporary", "or"} and bool(_TEMPORARY.search(text))
    return Look(
        may_end=not _stays(first, second, text),
        # MariaDB's BEGIN NOT ATOMIC is a block of statements.
        begins_anew=rolls_back or first in {"commit", "start"} or (first == "begin" and second != "not"),
        rolls_back=rolls_back,
        transaction=transaction,
        read_only=(transaction or first == "start") and bool(_READ_ONLY.search(text)),
        moves=moves,
        role=role,
        locks=locks,
        named_lock=named_lock,
        # That CREATE TEMPORARY TABLE … SELECT made a table, no server reports.
        changes=locks or named_lock or role or transaction or moves or made,
        sets=first in {"set", "prepare", "execute", "deallocate", "call"} or second == "temporary",
    )


def _stays(first: str, second: str, text: str) -> bool:
    if first == "set":
        return not _ENDING_SET.search(text)
    if first == "rollback":
        return bool(_TO_SAVEPOINT.search(text))
    return first in _STAYING or (first in {"create", "drop"} and second == "temporary")
