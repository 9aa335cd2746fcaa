"""How much is tried: what fits into `make test`, or everything, as `make test-all` says with TEST_SPEED=full.

What cannot be made smaller is marked slow instead, with its reason: `@pytest.mark.slow("…")`. With
`@pytest.mark.sampled(2, "…")` `make test` tries so many of a test's cases, others each day.
"""

import datetime
import os
import random

FULL = os.environ.get("TEST_SPEED", "quick") == "full"

EVERY_CASE = FULL or os.environ.get("TEST_CASES") == "all"
"""Whether sampled tests try all their cases: what `make coverage` measures must not depend on the day."""

# Noted where the processes of a run find it, which must all choose the same.
SEED = int(os.environ.setdefault("TEST_SEED", str(datetime.date.today().toordinal())))
"""What decides which part of something large is tried; another one each day, unless TEST_SEED gives one."""


def examples(full: int) -> int:
    """How many examples hypothesis tries, of so many in a full run."""
    return full if FULL else min(full, 200)


def seeded() -> random.Random:
    """Choices for the test that runs now: they depend on its name and on the seed."""
    return random.Random(f"{SEED} {os.environ['PYTEST_CURRENT_TEST']}")
