"""`lambda-pool top`: a live view of a server's connections, those with the longest transactions first."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from lambda_pool import LambdaPoolError
from lambda_pool.cli import arguments
from lambda_pool.cli.database import LOOKING, add_database, look, pool_of, rows
from lambda_pool.cli.terminal import Progress, clip, columns, complain, duration, printable, table, table_rows

_NAME = "lambda-pool top"
_CLEAR = "\x1b[H\x1b[J"
_OPTIONS = {
    **LOOKING,
    "autocommit": "true",
    "keep_below": "1",  # this one connection stays, even if the server is full: that is what users want to see
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add_database(parser, "URL of the database (default: LAMBDA_POOL_URL, or DATABASE_URL)")
    add(
        "--interval", type=arguments.seconds, default=2.0, metavar="SECONDS", help="time between two views (default: 2)"
    )
    add("--once", action="store_true", help="print one view and end; the default if the output is not a terminal")
    add("--limit", type=arguments.count, default=15, metavar="N", help="how many transactions to list (default: 15)")
    add("--user", metavar="NAME", help="the user whose sessions are the fleet's (default: the URL's)")
    add("--no-statements", action="store_true", help="do not show statements, because they may hold data")


class Session(NamedTuple):
    """One connection of the server. Ages are seconds; `transaction` is None outside of one."""

    id: int
    application: str
    user: str
    state: str
    age: float
    in_state: float
    transaction: float | None
    waits_for: str
    statement: str


class View(NamedTuple):
    """The server at one moment."""

    most: int
    sessions: Sequence[Session]
    user: str = ""
    """The user who asked."""


def run(args: argparse.Namespace) -> int:
    """Show views until interrupted. Returns 2 if the server cannot be asked."""
    live = sys.stdout.isatty() and not args.once
    try:
        pool = pool_of(args.url, args.prefix, name=_NAME, options=_OPTIONS)
        title = f"{pool.config.url.engine} {pool.config.url.hosts or 'local socket'}/{pool.config.url.database}"
        with Progress() as waiting:
            waiting(f"connecting to {title}")
            pool.warm(strict=True)
        view_of = look(pool, _READERS[pool.config.url.engine])
        while True:
            view = view_of()
            lines = _render(view, title, args, columns())
            # One line too many would scroll the first ones away.
            text = _CLEAR + "\n".join(lines[: shutil.get_terminal_size().lines - 1]) if live else "\n".join(lines)
            print(text, flush=True)
            if not live:
                return 0
            time.sleep(args.interval)
    except LambdaPoolError as error:
        return complain("top", error)


# --- reading ----------------------------------------------------------------------------------------------------------

_POSTGRES = """
select pid, coalesce(nullif(application_name, ''), '-'), coalesce(usename, '-'), coalesce(state, '-'),
    extract(epoch from clock_timestamp() - backend_start)::float8,
    coalesce(extract(epoch from clock_timestamp() - state_change), 0)::float8,
    extract(epoch from clock_timestamp() - xact_start)::float8,
    case when state = 'active' then coalesce(wait_event_type || ':' || wait_event, '') else '' end,
    coalesce(query, '')
from pg_stat_activity
where backend_type = 'client backend' and pid <> pg_backend_pid()
"""

# TIME is the seconds in the state; MySQL does not say how old a connection is. Needs the privilege PROCESS.
_MYSQL = """
select p.id, p.user, p.command, p.state, coalesce(p.time, 0),
    timestampdiff(microsecond, t.trx_started, now(6)) / 1e6, coalesce(p.info, '')
from information_schema.processlist p
left join information_schema.innodb_trx t on t.trx_mysql_thread_id = p.id
where p.id <> connection_id() and p.command not in ('Daemon', 'Binlog Dump')
"""
_MYSQL_PROGRAMS = """
select processlist_id, attr_value from performance_schema.session_connect_attrs where attr_name = 'program_name'
"""


def _read_postgres(conn: Any) -> View:
    ((most,),) = rows(conn, "select setting::int from pg_settings where name = 'max_connections'")
    ((user,),) = rows(conn, "select current_user")
    return View(most, [Session(*row) for row in rows(conn, _POSTGRES)], user)


def _read_mysql(conn: Any) -> View:
    ((most,),) = rows(conn, "select @@max_connections")
    try:
        programs = {int(number): str(name) for number, name in rows(conn, _MYSQL_PROGRAMS)}
    except Exception:  # noqa: BLE001 - it is switched off, or this user may not read it: the view has no names
        programs = {}
    sessions = []
    for number, user, command, state, seconds, transaction, statement in rows(conn, _MYSQL):
        doing = "active" if command != "Sleep" else "idle" if transaction is None else "idle in transaction"
        sessions.append(
            Session(
                int(number),
                programs.get(int(number), "-"),
                str(user),
                doing,
                0.0,
                float(seconds),
                None if transaction is None else float(transaction),
                str(state or "") if command != "Sleep" else "",
                str(statement),
            )
        )
    ((user,),) = rows(conn, "select substring_index(current_user(), '@', 1)")
    return View(int(most), sessions, str(user))


_READERS: dict[str, Callable[[Any], View]] = {"postgresql": _read_postgres, "mysql": _read_mysql}


# --- showing ----------------------------------------------------------------------------------------------------------


def _render(view: View, title: str, args: argparse.Namespace, width: int) -> list[str]:
    now = datetime.now().astimezone().strftime("%H:%M:%S")
    lines = [clip(f"{len(view.sessions)} of {view.most} connections   {now}   {title}", width)]
    lines += [clip(_fleet(view, args.user), width), ""]
    groups: dict[tuple[str, str], list[Session]] = {}
    for session in view.sessions:
        groups.setdefault((session.application, session.state), []).append(session)
    grouped = [
        [
            application,
            state,
            str(len(members)),
            _age(max(member.in_state for member in members)),
            _age(max((member.transaction or 0.0 for member in members), default=0.0)),
            _age(max(member.age for member in members)),
        ]
        for (application, state), members in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    lines += table(["APPLICATION", "STATE", "NUMBER", "IN STATE", "IN TRANS.", "CONNECTED"], grouped, width, {0, 1})
    busy = [session for session in view.sessions if session.transaction is not None]
    busy.sort(key=lambda session: -(session.transaction or 0.0))
    lines += ["", clip(f"{len(busy)} open transactions, the longest first", width)]
    return lines + _transactions(busy[: args.limit], width, statements=not args.no_statements)


def _transactions(sessions: Sequence[Session], width: int, *, statements: bool) -> list[str]:
    """A line for each session, and its statement in a line below."""
    if not sessions:
        return []
    rows = [
        [
            str(session.id),
            _age(session.transaction or 0.0),
            session.state,
            session.user,
            session.application,
            session.waits_for or "-",
        ]
        for session in sessions
    ]
    header = ["ID", "IN TRANS.", "STATE", "USER", "APPLICATION", "WAITS FOR"]
    found, *folded = table_rows(header, rows, width, {2, 3, 4, 5})
    for lines, session in zip(folded, sessions, strict=True):
        found += lines
        if statements and session.statement:
            statement = " ".join(printable(session.statement[:2_000].replace("\n", " ")).split())
            found.append(clip(f"    {statement}", width))
    return found


def _fleet(view: View, user: str | None) -> str:
    """Which of the user's sessions are kept idle, and what others hold. For an administrator, all are one user's."""
    users = {session.user for session in view.sessions}
    whose = user or (view.user if view.user in users else None)
    mine = [session for session in view.sessions if whose in {None, session.user}]
    idle = [session for session in mine if session.state == "idle"]
    oldest = _age(max((session.in_state for session in idle), default=0.0))
    who = f"{printable(whose)}: " if whose else ""
    return (
        f"{who}{len(idle)} kept idle, the oldest for {oldest}; {len(mine) - len(idle)} at work; "
        f"{len(view.sessions) - len(mine)} of others"
    )


def _age(seconds: float) -> str:
    """The age as text, `-` if there is none."""
    return duration(seconds) if seconds > 0 else "-"
