"""Who borrowed a connection: noted in code objects at checkout, made into text only when there is something to say."""

import logging
from collections.abc import Iterable
from types import CodeType, FrameType

from .core.dispatch import EventDispatcher
from .core.entry import Entry
from .events import Leaked

log: logging.Logger = logging.getLogger("lambda_pool")

_DEEPEST = 25
"""How many calls of a stack are kept; the outermost ones of a deeper stack belong to the runtime."""


def note(entry: Entry, frame: FrameType, *, deep: bool) -> None:
    """Note the line that runs in `frame` as the borrower, and, if `deep`, also the calls that led to it."""
    entry.where = frame.f_code
    entry.instruction = frame.f_lasti
    if not deep:
        return
    calls: list[tuple[CodeType, int]] = []
    outer: FrameType | None = frame
    while outer is not None and len(calls) < _DEEPEST:
        calls.append((outer.f_code, outer.f_lasti))
        outer = outer.f_back
    entry.stack = tuple(calls)


def describe(entry: Entry) -> tuple[str, str]:
    """`file:line in function` of the borrower, and its stack, outermost call first, if one was noted; else ""."""
    where = entry.where
    if not isinstance(where, CodeType):
        return str(where), ""
    lines = [place(code, instruction) for code, instruction in reversed(entry.stack)]
    return place(where, entry.instruction), "".join(f"\n  {line}" for line in lines)


def place(code: CodeType, instruction: int = 0) -> str:
    """`file:line in function` of an instruction."""
    lines = [line for start, end, line in code.co_lines() if line and start <= instruction < end]
    return f"{code.co_filename}:{(lines or [code.co_firstlineno])[0]} in {code.co_name}"


def places(entries: Iterable[Entry]) -> list[str]:
    """Where these were borrowed, each place once."""
    return sorted({describe(entry)[0] for entry in entries})


def emit_leaked(events: EventDispatcher, entry: Entry, held: float) -> None:
    """Tell observers and the log that a connection was held for too long (seconds)."""
    where, stack = describe(entry)
    events.emit(Leaked(events.name, held, where, stack))
    log.warning(
        "pool %s: a connection was held for %.1f s, borrowed at %s%s",
        events.name,
        held,
        where,
        stack,
        extra={"pool": events.name, "held": held, "where": where},
    )


def warn_unknown_deadline(pool: str) -> None:
    """Say that `cancel_before_deadline` cannot work for this borrower."""
    log.warning(
        "pool %s: cancel_before_deadline has no effect here, because it is not known when the invocation ends. "
        "Decorate the function that Lambda calls, with @pool.handler or handler = pool.handler(adapter). In a server, "
        "give the middleware a request_timeout",
        pool,
    )


def warn_used_after_return(events: EventDispatcher, entry: Entry) -> None:
    """Warn that an idle connection is in a transaction: its last borrower used it after giving it back."""
    log.warning(
        "pool %s: a connection was used after it had been given back (last borrowed at %s). It is closed, and what was "
        "not committed is lost. Use a connection only inside its block",
        events.name,
        describe(entry)[0],
    )
