"""How much is tried: as much as fits into `make test`, or everything, as `make test-all` demands with TEST_SPEED=full.

A test that cannot be made smaller is marked slow instead, with the reason: `@pytest.mark.slow("…")`. With
`@pytest.mark.sampled(2, "…")` `make test` tries that many of a test's cases, different ones each day, and with
`@pytest.mark.sampled(1 / 3, "…")` it tries the test on a third of the days.
"""

import datetime
import os
import random

FULL = os.environ.get("TEST_SPEED", "quick") == "full"

EVERY_CASE = FULL or os.environ.get("TEST_CASES") == "all"
"""Whether sampled tests try all their cases: what `make coverage` measures must not depend on the day."""

# Noted where all processes of a run find it: they must all choose the same.
SEED = int(os.environ.setdefault("TEST_SEED", str(datetime.date.today().toordinal())))
"""Decides which part of a large test is tried; a different seed each day, unless TEST_SEED gives one."""


def examples(full: int) -> int:
    """How many examples hypothesis tries; the number given is that of a full run."""
    return full if FULL else min(full, 100)


def seeded() -> random.Random:
    """Random choices for the test that is running: they depend on its name and on the seed."""
    return random.Random(f"{SEED} {os.environ['PYTEST_CURRENT_TEST']}")
