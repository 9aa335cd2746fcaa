"""What a statement says of itself, with or without comments in front. Text in, facts out; no driver.

This is for what the server does not report: which setting was changed, which lock is held, whether a transaction may
have ended and another begun. What a stored procedure does is out of reach.
"""

import re

from ...record import Record

# Comments, the opening of those that are executed (`/*! … */`), blanks and brackets. What was skipped is not looked at
# again (`(?>`, `*+`): with thirty blanks in front of something else, trying every other way would take minutes.
_WORDS = re.compile(
    r"(?>[\s(;]|/\*m?!\d*|/\*(?!m?!).*?\*/|(?:#|--(?=\s))[^\n]*(?:\n|$))*+(\w+)(?>\s|\*/|/\*.*?\*/)*+(\w*)",
    re.DOTALL | re.IGNORECASE,
)
_LOOKED_AT = 1 << 16
"""Characters of a statement that are looked at: what comes after them is data."""

# First words of statements that leave a transaction open, even if they fail. CALL and others may commit on their way:
# https://dev.mysql.com/doc/refman/8.4/en/implicit-commit.html
_PLAIN = frozenset({"select", "insert", "update", "delete", "replace", "with"})
_STAYING = (
    _PLAIN
    | {"values", "table", "do", "use", "savepoint", "release", "show", "explain", "describe", "desc"}
    | {"prepare", "deallocate"}
)
# First words of statements that commit before they do their own work; that stays committed if they fail.
_IMPLICIT = frozenset(
    {"alter", "create", "drop", "truncate", "rename", "grant", "revoke", "lock", "unlock", "flush", "reset", "optimize"}
    | {"repair", "check", "cache", "install", "uninstall", "change", "stop", "import", "clone", "backup"}
)
# Of those that run statements that are not seen: a procedure, a prepared statement, a block of MariaDB's.
_OPAQUE = frozenset({"call", "execute", "if", "case", "loop", "while", "repeat", "for", "declare"})
# Of those that save nothing, whether they succeed or fail.
_READS = frozenset({"select", "show", "explain", "describe", "desc", "values", "table", "use", "savepoint", "release"})
_WRITES = frozenset({"insert", "update", "delete", "replace", "with"})  # if no rows come
# These are compiled where they are needed first, and looked for in lower-case text.
_ENDING_SET = r"autocommit|password|statement|default\s+role"
_AUTOCOMMIT_ON = r"\bautocommit[^\w=]*+=\s*+(?!['\"]?(?:0|off|false)\b)"  # also `= 'ON'`, and `= @x`, which may be on
_XA_PREPARE = r"(?i)\bxa\s+prepare\b"
_TO_SAVEPOINT = r"\brollback\s+(?:work\s+)?to\b"

_BETWEEN = r"(?>\s|/\*.*?\*/)*+"
_NAMED_LOCK = rf"(?s)\bget_lock{_BETWEEN}\("
_VARIABLE = rf"(?s)@(?:[\w.$]++|`[^`]*+`|'[^']*+'|\"[^\"]*+\")++{_BETWEEN}:=|\binto{_BETWEEN}@"
# Not a system variable, an address or an account.
_NAMES_VARIABLE = r"(?<![\w@'\"`])@[\w.$`'\"]"
# Of `SET SESSION TRANSACTION …` and of the variables transaction_isolation, tx_read_only and the like.
_TRANSACTION = r"transaction|\btx_|@tx_"
_READ_ONLY = r"read[\s_]+only"
_TEMPORARY = r"\btemporary\b"
_TEMPORARY_ANEW = rf"(?s)\bor{_BETWEEN}replace{_BETWEEN}temporary\b"
_READ_LOCK = r"with\s+read\s+lock|for\s+export"


class Look(Record):
    """What is known of a statement before it is sent."""

    may_end: bool = False
    """It may end the transaction that it runs in, or begin another."""
    begins_anew: bool = False
    """It explicitly begins or ends a transaction."""
    begins: bool = False
    """It explicitly begins a transaction; of several statements, the first does."""
    commits: bool = False
    """It explicitly commits what is open."""
    rolls_back: bool = False
    """It explicitly rolls back a whole transaction; of several statements, the first does."""
    to_savepoint: bool = False
    """It rolls back to a savepoint; of several statements, the first does."""
    xa_prepares: bool = False
    """It ends the first of two phases."""
    xa_ends: bool = False
    """It ends the second."""
    implicit: bool = False
    """It commits what is open before it does its own work, as DDL does."""
    opaque: bool = False
    """It runs statements that are not seen, as CALL does: they may commit, roll back or begin."""
    reads: bool = False
    """It saves nothing by itself, not even in autocommit mode."""
    writes: bool = False
    """It changes rows: an answer without an error says that all of them are."""
    several: bool = False
    """It is more than one statement."""
    elsewhere: bool = False
    """It commits what another session may have prepared."""
    transaction: bool = False
    """It sets isolation level or access mode."""
    read_only: bool = False
    """It asks for a read-only transaction."""
    moves: bool = False
    """It chooses another database, or may leave the session without one."""
    role: bool = False
    """It takes on another role."""
    locks: bool = False
    """It takes a lock that no COMMIT releases: of tables, of the instance, of a backup, a HANDLER."""
    named_lock: bool = False
    """It takes a lock by GET_LOCK()."""
    changes: bool = False
    """It leaves something on the session that no server reports."""
    sets: bool = False
    """It leaves something on the session that a current server reports."""


_NOTHING = Look()
_READING, _WRITING = Look(reads=True), Look(writes=True)
COMMAND: Look = _READING
"""A command of the driver's own, such as a ping."""


def look(statement: str | bytes, *, several: bool) -> Look:
    """What a statement says of itself. `several`: it may be more than one, with semicolons between."""
    text = statement if isinstance(statement, str) else bytes(statement[:_LOOKED_AT]).decode("latin1")
    if several and ";" in text.rstrip("; \t\r\n"):
        parts = [_look(part) for part in text.split(";")]
        found = Look(*(any(getattr(part, name) for part in parts) for name in Look._fields))
        first = {name: getattr(parts[0], name) for name in ("begins", "rolls_back", "to_savepoint")}
        reads = all(part.reads for part in parts)
        return found.replace(may_end=True, changes=True, several=True, reads=reads, writes=False, **first)
    return _look(text)


def _look(text: str) -> Look:
    match = _WORDS.match(text)
    if match is None:
        return Look(may_end=True, opaque=True, changes=True)
    first, second = match[1].lower(), match[2].lower()
    text = text[:_LOOKED_AT].lower()
    named_lock = "get_lock" in text and bool(re.search(_NAMED_LOCK, text))
    if first in _PLAIN:
        reads, writes = first in _READS, first in _WRITES
        if named_lock or ("@" in text and re.search(_VARIABLE, text)):
            return Look(named_lock=named_lock, changes=True, reads=reads, writes=writes)
        return _READING if reads else _WRITING if writes else _NOTHING
    locks = (
        first in {"lock", "handler"}
        or (first == "backup" and second != "unlock")
        or (first == "flush" and bool(re.search(_READ_LOCK, text)))
    )
    role = first == "set" and second == "role"
    transaction = first == "set" and bool(re.search(_TRANSACTION, text))
    moves = first == "use" or (first == "drop" and second in {"database", "schema"})  # it may be the session's own
    to_savepoint = first == "rollback" and bool(re.search(_TO_SAVEPOINT, text))
    rolls_back = first == "rollback" and not to_savepoint
    # MariaDB's BEGIN NOT ATOMIC is a block of statements.
    begins = first == "start" or (first == "begin" and second != "not")
    elsewhere = first == "xa" and second == "commit"
    commits = begins or elsewhere or first == "commit" or (first == "set" and bool(re.search(_AUTOCOMMIT_ON, text)))
    stays = _stays(first, second, text)
    made = first == "create" and second in {"temporary", "or"} and bool(re.search(_TEMPORARY, text))
    # A server reports what SET assigns, and nothing of CALL p(@x), LOAD DATA … (@x), GET DIAGNOSTICS @x = … and others.
    assigns = "@" in text and first != "set" and bool(re.search(_NAMES_VARIABLE, text))
    # MariaDB does not report `SET @@name = …`; and nothing is reported any more once that is switched off.
    assigns = assigns or "@@" in text or "session_track" in text
    return Look(
        may_end=not stays,
        begins_anew=rolls_back or begins or first == "commit",
        begins=begins,
        commits=commits,
        rolls_back=rolls_back,
        to_savepoint=to_savepoint,
        xa_prepares=first == "xa" and second == "prepare",
        xa_ends=first == "xa" and second in {"commit", "rollback"},
        implicit=_is_implicit(first, second, text),
        opaque=first in _OPAQUE or (first, second) in {("begin", "not"), ("set", "statement")},
        reads=first in _READS or rolls_back or (first == "set" and stays) or (commits and not elsewhere),
        writes=first == "load",
        elsewhere=elsewhere,
        transaction=transaction,
        read_only=(transaction or first == "start") and bool(re.search(_READ_ONLY, text)),
        moves=moves,
        role=role,
        locks=locks,
        named_lock=named_lock,
        # No server reports the table that CREATE TEMPORARY TABLE … SELECT made.
        changes=locks or named_lock or role or transaction or moves or made or assigns,
        sets=first in {"set", "prepare", "execute", "deallocate", "call"} or second == "temporary",
    )


def prepared_by(statement: str | bytes) -> str:
    """The identifier of the transaction that XA PREPARE prepared."""
    text = statement if isinstance(statement, str) else bytes(statement).decode("latin1")
    found = re.search(_XA_PREPARE, text)
    return text[found.end() :].strip("; \t\r\n") if found else "?"


def _stays(first: str, second: str, text: str) -> bool:
    if first == "set":
        return not re.search(_ENDING_SET, text)
    if first == "rollback":
        return bool(re.search(_TO_SAVEPOINT, text))
    return first in _STAYING or (first in {"create", "drop"} and second == "temporary")


def _is_implicit(first: str, second: str, text: str) -> bool:
    if first in {"create", "drop"} and (second == "temporary" or re.search(_TEMPORARY_ANEW, text)):
        return False
    if first == "analyze":  # MariaDB's `ANALYZE UPDATE …` is just an UPDATE
        return second in {"table", "tables", "local", "no_write_to_binlog"}
    named = {("set", "password"), ("set", "default"), ("load", "index"), ("start", "replica"), ("start", "slave")}
    return first in _IMPLICIT or (first, second) in named
