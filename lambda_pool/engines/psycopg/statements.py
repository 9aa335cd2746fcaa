"""What the text of a statement tells: what to log, whether it may end a transaction, and what it may leave behind."""

import re
from collections.abc import Iterable
from typing import Any

from psycopg import sql

# Patterns are compiled where they are needed first.
# The parts of SQL text that are not SQL: literals, quoted names, comments. Each repetition of a group costs memory, so
# no group repeats a single character.
_QUOTED = (
    r"""(?si)\be'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'|'[^']*(?:''[^']*)*'|"[^"]*(?:""[^"]*)*"|"""
    r"""\$(?P<tag>[^\W\d]\w*|)\$.*?\$(?P=tag)\$|--[^\n]*|/\*"""
)
_PLAIN_NAME = r'"\w+"'
_COMMENT_EDGE = r"/\*|\*/"
_ENDS = (
    r"(?:^|;)\s*(?:commit\b|end\b|abort\b|prepare\s+transaction\b|rollback\b(?!\s+(?:(?:work|transaction)\s+)?to\b))"
)
_COMMITS = r"\s*(?:commit|end|prepare\s+transaction)\b"
_MAY_COMMIT = rf"(?:^|;){_COMMITS}"
_COMMIT = r"(?:^|;)\s*(?:commit|end)\b"
# How a statement that saves nothing begins, and the words with which it may save something all the same.
_HARMLESS = (
    r"[\s(]*(?:select|with|values|table|show|explain|fetch|declare|close|set|reset|begin|start|rollback|abort|savepoint|"
    r"release|listen|unlisten|discard|deallocate|copy\b.*\bto\s+stdout)\b"
)
_WRITES = r"\b(?:insert|update|delete|merge|into)\b"
_PREPARED_BY = r"(?i)prepare\s+transaction\s+\w?'([^']*)'"
_SETS = r"(?:^|;)\s*set\s+(?!\s|(?:local|transaction|constraints)\b)"
_LEAVES = r"(?:^|;)\s*(?:reset|listen|prepare|discard|deallocate|declare|load|do|call)\b"
_TEMPORARY = r"\b(?:create|into|replace|local|global)\s+temp(?:orary)?\b|\bpg_temp\b"
_SETTINGS = r"\bupdate\s+(?:only\s+)?(?:pg_catalog\s*\.\s*)?pg_settings\b"
_LOCAL_CONFIG = r"\bset_config\s*\((?:[^()]|\([^()]*\))*,\s*true\s*\)"
_PREPARES = r"(?:^|;)\s*(?:prepare|do|call)\b"

# Commands whose tag alone says that the session is not as it was before.
_CHANGING = frozenset({b"RESET", b"LISTEN", b"PREPARE", b"DISCARD", b"DEALLOCATE", b"DECLARE", b"LOAD", b"DO", b"CALL"})


def statement(query: Any) -> str:
    """A query as text with `?` in the place of each value that Python put in."""
    if isinstance(query, str):
        return query
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if isinstance(query, sql.Literal):
        return "?"
    if isinstance(query, sql.Composed):
        return "".join(statement(part) for part in query)
    if isinstance(query, sql.Composable):
        return query.as_string(None)
    strings = getattr(query, "strings", None)  # a template string, of Python 3.14
    if not isinstance(strings, tuple):
        return type(query).__name__
    values = ("", *map(_interpolated, query.interpolations))
    return "".join(f"{value}{text}" for value, text in zip(values, strings, strict=True))


def _interpolated(part: Any) -> str:
    """What is put into a template string: other SQL and names as they are, and `?` for a value."""
    if part.format_spec == "i" and isinstance(part.value, str):
        return statement(sql.Identifier(part.value))
    return statement(part.value) if part.format_spec in {"i", "q"} else "?"


def ends_transaction(query: Any) -> bool:
    """True if one of the statements in a query's text may end the transaction (not a savepoint)."""
    return bool(re.search(_ENDS, _bare(statement(query).lower())))


def asks_to_commit(query: Any) -> bool:
    """True if its first statement is a COMMIT, or the first of two phases."""
    return bool(re.match(_COMMITS, _bare(statement(query).lower())))


def may_commit(query: Any) -> bool:
    """True if one of its statements is a COMMIT, or the first of two phases."""
    text = statement(query).lower()
    if not ("commit" in text or "end" in text or "prepare" in text):  # as in most statements
        return False
    return bool(re.search(_MAY_COMMIT, _bare(text)))


def commits(query: Any) -> bool:
    """True if one of its statements is a COMMIT, also of what another session prepared."""
    return bool(re.search(_COMMIT, _bare(statement(query).lower())))


def saves_nothing(query: Any) -> bool:
    """True if its words say that it saves nothing, even in autocommit mode. What functions do is not seen."""
    parts = [part for part in _bare(statement(query).lower()).split(";") if part.strip()]
    return all(re.match(_HARMLESS, part, re.DOTALL) and not re.search(_WRITES, part) for part in parts)


def prepares(query: Any) -> bool:
    """True if it may leave a prepared statement of the borrower's own."""
    return bool(re.search(_PREPARES, _bare(statement(query).lower())))


def prepared_by(query: Any) -> str:
    """The identifier of the transaction that it prepared."""
    found = re.search(_PREPARED_BY, statement(query))
    return found[1] if found else "?"


def changes_session(query: Any, tags: Iterable[bytes] | None = None) -> bool:
    """True if it leaves something on the session that outlives its transaction.

    `tags`: the server's command tags, if its answers were seen. What functions do inside is not seen, except for
    `set_config`, the advisory locks, DO and CALL.
    """
    if tags is not None and any(tag.partition(b" ")[0] in _CHANGING for tag in tags):
        return True
    text = statement(query).lower()
    if "set_config" in text or "advisory_lock" in text or "temp" in text or "pg_settings" in text:
        bare = _bare(text)
        named = "set_config" in re.sub(_LOCAL_CONFIG, "", bare)
        if named or "advisory_lock" in bare or re.search(_TEMPORARY, bare) or re.search(_SETTINGS, bare):
            return True
    if tags is None:
        bare = _bare(text)
        return bool(re.search(_SETS, bare) or re.search(_LEAVES, bare))
    return b"SET" in tags and bool(re.search(_SETS, _bare(text)))


def _bare(text: str) -> str:
    """SQL without its comments, with empty literals, and with names of one word as if they were not quoted."""
    parts = []
    at = 0
    while found := re.compile(_QUOTED).search(text, at):
        parts.append(text[at : found.start()])
        at = found.end()
        if found.group() == "/*":
            at = _end_of_comment(text, at)
            parts.append(" ")
        elif re.fullmatch(_PLAIN_NAME, found.group()):
            parts.append(f" {found.group()[1:-1]} ")
        else:
            parts.append(" " if found.group().startswith("--") else "''")
    return "".join((*parts, text[at:]))


def _end_of_comment(text: str, at: int) -> int:
    """Where the comment ends that was opened before `at`. PostgreSQL's comments may be nested."""
    depth = 1
    while depth and (edge := re.compile(_COMMENT_EDGE).search(text, at)):
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return len(text) if depth else at
