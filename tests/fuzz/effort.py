"""How much is tried: a fixed little in the test suite; fresh and more of it with FUZZ_TIMES=…, as in `make fuzz`."""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

TIMES = int(os.environ.get("FUZZ_TIMES", "1"))


def effort(examples: int) -> Callable[[Any], Any]:
    """Hypothesis settings for a test with so many examples in the test suite."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
