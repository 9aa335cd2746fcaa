"""The three ways to connect that are compared, each a handler file that is shipped with the demo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FUNCTIONS = Path(__file__).parent / "_functions"


@dataclass(frozen=True)
class Way:
    """One way to connect. `module` is its handler's file, its database user and that user's schema."""

    title: str
    module: str

    def source(self, engine: str) -> Path:
        """The handler's file for `postgresql` or `mysql`."""
        return _FUNCTIONS / engine / f"{self.module}.py"


EACH_TIME = Way("connect each time", "connect_each_time")
GLOBAL = Way("bare global", "bare_global")
OURS = Way("lambda_pool", "with_lambda_pool")
WAYS = (EACH_TIME, GLOBAL, OURS)
