"""How much is tried: what fits into `make test`, or everything, as `make test-all` says with TEST_SPEED=full.

What cannot be made smaller is marked slow instead, with its reason: `@pytest.mark.slow("…")`.
"""

import datetime
import os
import random

FULL = os.environ.get("TEST_SPEED", "quick") == "full"

SEED = int(os.environ.get("TEST_SEED") or datetime.date.today().toordinal())
"""What decides which part of something large is tried; another one each day, unless TEST_SEED gives one."""


def examples(full: int) -> int:
    """How many examples hypothesis tries, of so many in a full run."""
    return full if FULL else min(full, 200)


def seeded() -> random.Random:
    """Choices for the test that runs now: they depend on its name and on the seed."""
    return random.Random(f"{SEED} {os.environ['PYTEST_CURRENT_TEST']}")
