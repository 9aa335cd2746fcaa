"""Who borrowed a connection: noted in code objects at checkout, made into text only when somebody asks."""

from types import CodeType, FrameType

from .slot import Slot

_DEEPEST = 25
"""Calls of a stack that are kept; the outermost of a deeper one belong to the runtime."""


def note(slot: Slot, frame: FrameType) -> None:
    """Note the line that runs in `frame` as the borrower."""
    slot.where = frame.f_code
    slot.instruction = frame.f_lasti


def note_stack(slot: Slot, frame: FrameType) -> None:
    """Note the line that runs in `frame` as the borrower, and the calls that led to it."""
    note(slot, frame)
    calls: list[tuple[CodeType, int]] = []
    outer: FrameType | None = frame
    while outer is not None and len(calls) < _DEEPEST:
        calls.append((outer.f_code, outer.f_lasti))
        outer = outer.f_back
    slot.stack = tuple(calls)


def describe(slot: Slot) -> tuple[str, str]:
    """`file:line in function` of the borrower, and its stack, outermost call first, if one was noted; else ""."""
    where = slot.where
    if not isinstance(where, CodeType):
        return str(where), ""
    lines = [place(code, instruction) for code, instruction in reversed(slot.stack)]
    return place(where, slot.instruction), "".join(f"\n  {line}" for line in lines)


def place(code: CodeType, instruction: int = 0) -> str:
    """`file:line in function` of an instruction."""
    lines = (line for start, end, line in code.co_lines() if line and start <= instruction < end)
    return f"{code.co_filename}:{next(lines, code.co_firstlineno)} in {code.co_name}"
