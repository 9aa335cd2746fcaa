"""What the doctor found: as data that can be returned from a handler, and as lines to read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, TypedDict
from urllib.parse import quote

import lambda_pool
from lambda_pool.cli.terminal import Terminal, fold
from lambda_pool.secret import Secret

Status = Literal["ok", "warning", "failed", "skipped"]

_NOTABLE = ("failed", "warning")
_STYLES = {"ok": "green", "warning": "yellow", "failed": "red", "skipped": "dim"}
_INDENT = " " * 11
_LONGEST = 1000
# Shorter ones would turn every text into stars, and so show what they are.
_SHORTEST_SECRET = 4
_SIGNED = re.compile(r"(X-Amz-(?:Signature|Security-Token|Credential)=)[^&\s'\"]+")


@dataclass
class Finding:
    """How one step ended: what was seen, what to do about it, and the figures."""

    status: Status
    detail: str
    advice: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def ok(detail: str, **facts: Any) -> Finding:
    """A step that went well."""
    return Finding("ok", detail, [], facts)


def warning(detail: str, *advice: str, **facts: Any) -> Finding:
    """A step that went well, with something to look at."""
    return Finding("warning", detail, list(advice), facts)


def failed(detail: str, *advice: str, **facts: Any) -> Finding:
    """A step that failed, and how to fix it."""
    return Finding("failed", detail, [text for text in advice if text], facts)


class Step(TypedDict):
    """One step of the report. `milliseconds` is what it took."""

    step: str
    status: Status
    detail: str
    advice: list[str]
    facts: dict[str, Any]
    milliseconds: float


class Report(TypedDict):
    """The whole report: nothing but texts, numbers, lists and dictionaries, so that a handler can return it.

    `exit_code`: 0 if every step went well or gave a warning at most, 1 if one failed, 2 if the configuration did.
    """

    ok: bool
    exit_code: int
    lambda_pool: str
    pool: str
    steps: list[Step]


class Redactor:
    """Removes every secret that it knows from a text: the last line of defence, as no step should ask for one.

    A password is often also a user's or a database's name, or a part of one ("postgres" of "postgresql"). Those words
    of the URL are shown on purpose and stay as they are, except in the places where passwords stand. Otherwise, stars
    in their place would say what the password is.
    """

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._words: set[str] = set()

    def add(self, *secrets: Secret | None) -> None:
        """Learn secrets."""
        for secret in secrets:
            text = secret.reveal() if secret is not None else ""
            if len(text) >= _SHORTEST_SECRET:
                self._secrets |= {text, quote(text, safe=""), quote(text, safe="-_.~")}

    def spare(self, *words: object) -> None:
        """Learn words that are shown on purpose; empty ones and None are ignored."""
        self._words |= {str(word) for word in words if word}

    def clean(self, value: Any) -> Any:
        """The same text, list or dictionary, without secrets."""
        if isinstance(value, str):
            return _SIGNED.sub(r"\1***", self._mask(value))
        if isinstance(value, list):
            return [self.clean(item) for item in value]
        if isinstance(value, dict):
            return {key: self.clean(item) for key, item in value.items()}
        return value

    def _mask(self, text: str) -> str:
        if not self._secrets:
            return text
        secrets = "|".join(map(re.escape, sorted(self._secrets, key=len, reverse=True)))
        text = re.sub(rf"(://[^\s/@]*:|passw(?:or)?d\W{{1,4}})(?:{secrets})(?!\w)", r"\1***", text)
        # The longest first, so that a word is found before the secret that it holds.
        found = sorted(self._words | self._secrets, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, found)), lambda each: each[0] if each[0] in self._words else "***", text)


def step(name: str, finding: Finding, seconds: float, redactor: Redactor) -> Step:
    """A finding as part of the report."""
    return {
        "step": name,
        "status": finding.status,
        # Cut only now: half a secret would not be recognised.
        "detail": redactor.clean(finding.detail)[:_LONGEST],
        "advice": redactor.clean(finding.advice),
        "facts": redactor.clean(finding.facts),
        "milliseconds": round(seconds * 1000, 1),
    }


def report(pool: str, steps: list[Step]) -> Report:
    """All steps, and their result as a whole."""
    bad = [each["step"] for each in steps if each["status"] == "failed"]
    code = 0 if not bad else 2 if bad == ["config"] else 1
    return {"ok": not bad, "exit_code": code, "lambda_pool": lambda_pool.__version__, "pool": pool, "steps": steps}


def render(found: Report, terminal: Terminal) -> str:
    """The report as lines that fit, except for names that are longer."""
    lines: list[str] = []
    for (status, detail), group in groupby(found["steps"], lambda each: (each["status"], each["detail"])):
        lines += _render_steps(status, detail, list(group), terminal)
    names = {status: [each["step"] for each in found["steps"] if each["status"] == status] for status in _NOTABLE}
    notable = [f"{', '.join(names[status])}: {status}" for status in _NOTABLE if names[status]]
    return "\n".join([*lines, "", "; ".join(notable) or "everything works"])


def _render_steps(status: str, detail: str, steps: list[Step], terminal: Terminal) -> Iterable[str]:
    head = f"{status:<9}{', '.join(each['step'] for each in steps)}"
    for number, line in enumerate(fold(f"{head}: {detail}", later=_INDENT)):
        yield line if number else terminal.paint(status, _STYLES[status]) + line[len(status) :]
    for advice in (text for each in steps for text in each["advice"]):
        yield from fold(f"-> {advice}", _INDENT, _INDENT + "   ")
