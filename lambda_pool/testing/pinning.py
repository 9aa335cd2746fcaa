"""Which statements pin a session behind an RDS Proxy, and why. Text in, a reason out.

https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/rds-proxy-pinning.html
"""

from __future__ import annotations

import re

LARGEST = 16 * 1024
"""Bytes. A statement with a longer text pins."""

# Comments, texts and quoted names: what is in them is not a command. MySQL runs what is in `/*! … */`. Of a long
# statement only its beginning is shown, so a text may have no end.
_POSTGRES_QUOTED = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)|\bE'(?:[^'\\]|\\.?|'')*(?:'|\Z)|'(?:[^']|'')*(?:'|\Z)|\"(?:[^\"]|\"\")*(?:\"|\Z)"
    r"|(?<!\w)(\$\w*\$).*?(?:\1|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_MYSQL_QUOTED = re.compile(
    r"(?:#|--(?=\s))[^\n]*|/\*(?!m?!).*?(?:\*/|\Z)|'(?:[^'\\]|\\.?|'')*(?:'|\Z)|\"(?:[^\"\\]|\\.?|\"\")*(?:\"|\Z)",
    re.DOTALL,
)
_MYSQL_RUN = re.compile(r"/\*m?!\d*|\*/", re.IGNORECASE)

# In order: the first that fits is the reason. Each is looked for in one statement without its texts and comments.
_POSTGRES = (
    (r"^(set|reset) (?!local |transaction |constraints )", "it changes a setting of the session: use SET LOCAL"),
    (
        r"\bset_config ?\((?!.*\btrue ?\))",
        "it changes a setting of the session: give set_config true as its third argument",
    ),
    (r"^(prepare (?!transaction)|execute |deallocate )", "it manages a prepared statement"),
    (r"^discard ", "it resets the session"),
    (r"^create( local| global| or replace)* temp(orary)? ", "it makes something temporary"),
    (r"^(select|with) .*(?<!insert )(?<!merge )\binto (local |global )?temp(orary)? ", "it makes something temporary"),
    (r"^declare ", "it declares a cursor"),
    (r"^(listen|unlisten) ", "it listens to a channel"),
    (r"^load ", "it loads a library"),
    (
        r"\b(nextval|setval|currval|lastval) ?\(",
        "it uses a sequence through a function: let a column's default do that",
    ),
    (r"\bpg_(try_)?advisory_(lock|unlock)", "it takes a lock of the session: use pg_advisory_xact_lock"),
)
_MYSQL = (
    (r"^lock (table|tables|instance)\b", "it locks until it is told to unlock"),
    (r"^flush .*(with read lock|for export)", "it locks until it is told to unlock"),
    (r"\bget_lock ?\(", "it takes a named lock"),
    (r"^create( or replace)? temporary ", "it makes a temporary table"),
    (r"^(prepare|execute|deallocate|drop prepare) ", "it manages a prepared statement"),
    (r"@(?!@)[\w.$`]+ ?:=|\binto @", "it sets a user variable"),
)
_MYSQL_SET = re.compile(r"^set (?!password\b|default role\b)(.*)$", re.DOTALL)
_SCOPE = re.compile(r"^(?:@@)?(session|local|global|persist|persist_only)[ .]|^@@")
_NEXT = "it sets the isolation level or access mode of the next transaction only: SET SESSION TRANSACTION does not pin"
# What the proxy keeps track of, so that sessions with the same values go on sharing connections.
# fmt: off
_TRACKED = frozenset({
    "autocommit", "auto_increment_increment", "character_set_client", "character_set_connection",
    "character_set_database", "character_set_filesystem", "character_set_results", "character_set_server",
    "collation_connection", "collation_database", "collation_server", "interactive_timeout", "net_write_timeout",
    "query_cache_type", "session_track_schema", "sql_mode", "time_zone", "transaction_isolation", "tx_isolation",
    "transaction_read_only", "tx_read_only", "wait_timeout",
})
# fmt: on
_OF_TRANSACTIONS = frozenset({"transaction_isolation", "tx_isolation", "transaction_read_only", "tx_read_only"})


def shown(statement: str, engine: str) -> str:
    """A statement on one line, without comments and without the texts in it, which must not be in a log."""
    if engine == "mysql":
        text = _MYSQL_RUN.sub(" ", _MYSQL_QUOTED.sub(_blank, statement))
    else:
        text = _POSTGRES_QUOTED.sub(_blank, statement)
    return " ".join(text.split())


def _blank(match: re.Match[str]) -> str:
    found = match[0]
    if found.startswith(("--", "/*", "#")):
        return " "
    return '"…"' if found.startswith('"') else "'…'"


def reason(statement: str, engine: str) -> str | None:
    """Why this text, of one statement or several, pins a session; None if it does not.

    engine: `postgresql` or `mysql`.
    """
    if len(statement.encode("utf-8", "surrogateescape")) > LARGEST:
        return f"it is longer than {LARGEST // 1024} KiB"
    judge = _of_mysql if engine == "mysql" else _of_postgres
    parts = (part.strip(" (") for part in shown(statement, engine).lower().split(";"))
    return next((found for part in parts if (found := judge(part))), None)


def _of_postgres(part: str) -> str | None:
    return _first(_POSTGRES, part)


def _of_mysql(part: str) -> str | None:
    setting = _MYSQL_SET.match(part)
    if setting is None:
        return _first(_MYSQL, part)
    found = (_of_setting(each.strip()) for each in _split(setting[1]))
    return next((why for why in found if why), None) or _first(_MYSQL, part)


def _of_setting(text: str) -> str | None:
    """One assignment of SET, in lower case."""
    if re.match(r"(names|character set|charset|char set)\b", text):
        return None
    if text.startswith("statement "):
        return None
    if re.match(r"(session |local |global )?transaction\b", text):
        return _NEXT if text.startswith("transaction") else None
    scope = _SCOPE.match(text)
    name = (text[scope.end() :] if scope else text).partition("=")[0].rstrip(" :").strip("` ")
    if name.startswith("@"):
        return "it sets a user variable"
    if name in _OF_TRANSACTIONS and scope is not None and scope[1] is None:
        return _NEXT
    return None if name in _TRACKED else f"it sets {name.split(' ')[0]}, which the proxy does not keep track of"


def _split(text: str) -> list[str]:
    """Split at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _first(rules: tuple[tuple[str, str], ...], part: str) -> str | None:
    return next((why for pattern, why in rules if re.search(pattern, f"{part} ", re.DOTALL)), None)
