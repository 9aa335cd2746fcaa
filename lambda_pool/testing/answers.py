"""What a function answers: the result or the error of one invocation, with its log."""

from __future__ import annotations

import http
import json
import re
from dataclasses import dataclass
from typing import Any

TAIL_CHARACTERS = 4000
LOG_BEGINS = "; the end of its log:\n"
# What awslambdaric answers when a handler raises; the emulator then says 200 and sends no error header.
_ERROR_KEYS = frozenset({"errorMessage", "errorType", "requestId", "stackTrace"})
_TIMED_OUT = re.compile(r"Task timed out after [\d.]+ seconds")


class LambdaRuntimeError(RuntimeError):
    """The emulator or the runtime could not be started or spoken to; the text shows the end of the log."""


class LambdaInitError(LambdaRuntimeError):
    """The function's Init failed: importing its module raised, ended the process or took too long."""


class InvocationError(LambdaRuntimeError):
    """The handler raised, or the invocation timed out; the text shows the error and the end of its log."""


@dataclass(frozen=True)
class Invocation:
    """One answer of the function."""

    payload: Any
    """The answer, decoded from JSON; the error dictionary if the invocation failed."""
    error: dict[str, Any] | None
    """None, or a dictionary with `errorType` and `errorMessage`."""
    milliseconds: float
    """From sending the event to having read the answer, Init included if this invocation needed one."""
    log: str
    """What the function and the emulator wrote meanwhile."""

    @property
    def result(self) -> Any:
        """The payload of an invocation that went well. Raises InvocationError, with the log, if it failed."""
        __tracebackhide__ = True  # pytest then shows the caller's line, and none of ours
        if self.error is None:
            return self.payload
        text = f"{self.error['errorType']}: {self.error['errorMessage']}"
        raise InvocationError(f"{text}{LOG_BEGINS}{self.log[-TAIL_CHARACTERS:]}")


def decode(status: int, answer: bytes) -> tuple[Any, dict[str, Any] | None]:
    """The payload and the error. The emulator's own errors have a status other than 200, except a timeout."""
    text = answer.decode(errors="replace")
    try:
        payload = json.loads(text)
    except ValueError:
        if _TIMED_OUT.fullmatch(text):
            kind = "Sandbox.Timedout"
        elif text:
            kind = "Runtime.InvalidAnswer"
        else:
            # If an environment ends during Init without a word, the emulator answers with an empty 502.
            kind, text = "Runtime.ExitError", "the runtime ended without an answer"
        payload = {"errorType": kind, "errorMessage": text}
        return payload, payload
    if status == http.HTTPStatus.OK and not (isinstance(payload, dict) and payload.keys() >= _ERROR_KEYS):
        return payload, None
    if not (isinstance(payload, dict) and payload.keys() >= {"errorType", "errorMessage"}):
        payload = {"errorType": "Runtime.InvalidAnswer", "errorMessage": text}
    return payload, payload
