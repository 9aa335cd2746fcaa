"""How much is tried: a fixed part in the test suite, and more, on fresh input, with FUZZ_TIMES=… (`make fuzz`)."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

from tests.support.speed import FULL, examples

TIMES = int(os.environ.get("FUZZ_TIMES", "0"))


def effort(full: int, quick: int | None = None) -> Callable[[Any], Any]:
    """Hypothesis settings for a test with so many examples in a full run, and in a quick one."""
    few = full if FULL or TIMES else quick or examples(full)
    return settings(
        max_examples=few * max(TIMES, 1),
        derandomize=not TIMES,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
