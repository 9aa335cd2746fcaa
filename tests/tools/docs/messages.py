"""Every text that the package can raise, warn of or advise, read from its source."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.tools.docs.blocks import ROOT

PACKAGE = ROOT / "lambda_pool"
GAP = "…"
"""What stands for a part that is not known before it happens."""
# The command line says what it says where it is typed, and the test tools in a test's output.
_ELSEWHERE = {"cli", "testing"}
# Mistakes of whoever writes a program on the package's inner parts; nobody meets them in a log.
_INTERNAL = {"AttributeError", "TypeError", "RuntimeError", "ValueError", "AssertionError"}
# Here most texts are SQL, protocol, servers' own words or descriptions: only what is raised or logged counts.
_RAISED_ONLY = {"django", "engines", "lifecycle", "metrics"}
_TELLING = 15  # characters of a part that tells one message from others
_BAD_VALUE = "is not valid: it must be"  # says enough by itself: a name stands before it, what is allowed after it
_QUIET = {"debug", "info"}
_LOUD = {"warning", "error", "exception", "uncertain"}
_RETURNED = {"lost_answer"}  # functions that give the text of an error


@dataclass(frozen=True)
class Message:
    """One text, with GAP for its variable parts."""

    where: str
    text: str

    @property
    def pieces(self) -> list[str]:
        """What of it can be looked for: its fixed parts, cut at punctuation, of three words or more."""
        parts = (part.strip(" .'") for part in re.split(r"[…():;,]|\. |%\w|%\.\d\w|\{\w+\}", self.text))
        found = [part for part in parts if len(part.split()) >= 3 and len(part) >= _TELLING]
        return [*found, _BAD_VALUE] if _BAD_VALUE in self.text else found


def text_of(node: ast.AST) -> str | None:
    """The text of a constant or an f-string, and of what `+` and `if` make of them."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    return None


def _name(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def _is_error(name: str) -> bool:
    return name.endswith(("Error", "Timeout", "Exceeded", "Uncertain")) and name not in _INTERNAL


def _collections(tree: ast.Module) -> Iterator[ast.AST]:
    """Tables at module and class level: codes, servers' words, and fixes that are a part of another message."""
    for body in [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]:
        for statement in body:
            value = getattr(statement, "value", None)
            table = body is not tree.body or not isinstance(value, ast.Constant | ast.JoinedStr)
            if isinstance(statement, ast.Assign | ast.AnnAssign) and table:
                yield from ast.walk(statement)


def _texts(tree: ast.AST, skip: set[ast.AST]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skip |= {part for part in ast.walk(node) if part is not node}
        text = None if node in skip else text_of(node)
        if text is not None:
            yield getattr(node, "lineno", 0), text


def _of_file(path: Path) -> Iterator[Message]:
    tree = ast.parse(path.read_text())
    skip: set[ast.AST] = set(_collections(tree))
    raised: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skip.add(node.value)  # a docstring
        if isinstance(node, ast.Compare):
            skip |= set(ast.walk(node))  # what others say
        if isinstance(node, ast.FunctionDef) and node.name in _RETURNED:
            raised.append(node)
        if isinstance(node, ast.Call):
            name = _name(node.func)
            if name in _QUIET or name in _INTERNAL:
                skip |= set(ast.walk(node))
            elif _is_error(name) or name in _LOUD:
                raised.append(node)
    only = _RAISED_ONLY & set(path.relative_to(PACKAGE).parts)
    for tree_or_call in raised if only else [tree]:
        for line, text in _texts(tree_or_call, skip):
            message = Message(f"{path.relative_to(ROOT)}:{line}", " ".join(text.split()))
            if message.pieces:
                yield message


@cache
def messages() -> tuple[Message, ...]:
    """All of them, in the order of the files."""
    files = sorted(path for path in PACKAGE.rglob("*.py") if not _ELSEWHERE & set(path.relative_to(PACKAGE).parts))
    return tuple(message for path in files for message in _of_file(path))
