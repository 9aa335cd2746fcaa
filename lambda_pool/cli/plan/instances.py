"""How many connections a class of RDS instance allows by default.

The formulas are those of RDS's default parameter groups ("Maximum number of database connections" in the user guides of
RDS and Aurora); the memory of a class is in "Hardware specifications for DB instance classes". Read in November 2026.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

_GIB = 1 << 30
# GiB of a family's size `large`; the other sizes are multiples of it.
_LARGE = (
    (r"t[234]g?", 8.0),
    (r"m[4-9][a-z]*", 8.0),
    (r"r4", 15.25),
    (r"r[5-9][a-z]*|z1d", 16.0),
    (r"x2g|x2idn", 32.0),
    (r"x2iedn|x2iezn", 64.0),
)
_SIZES = {"micro": 0.125, "small": 0.25, "medium": 0.5, "large": 1.0}
# Bytes of memory for each connection, and the most.
_PER_CONNECTION = {
    "postgresql": (9_531_392, 5_000),
    "aurora-postgresql": (9_531_392, 5_000),
    "mysql": (12_582_880, 100_000),
    "mariadb": (25_165_760, 12_000),
}
# DBInstanceClassMemory is less than the class has, by what the system and RDS's own processes take. AWS does not say
# how much. This is a little more than what running instances show (198 connections with 2 GiB, 413 with 4).
_KEPT_GIB, _KEPT_PART = 0.25, 0.05


class Instance(NamedTuple):
    """A class, and what it allows by default."""

    max_connections: int
    source: str
    """How the number came about, in words."""


def of(name: str, engine: str) -> Instance:
    """An instance of the class `name`, such as db.t4g.micro. Raises ValueError for one that is not known here."""
    memory = _memory(name)
    if engine == "aurora-mysql":
        return Instance(_aurora_mysql(name, memory), f"the default of Aurora MySQL for {name}")
    each, most = _PER_CONNECTION[engine]
    usable = memory * (1 - _KEPT_PART) - _KEPT_GIB
    return Instance(
        min(int(usable * _GIB / each), most),
        f"about, by RDS's default formula for {name}: {memory:g} GiB, less what RDS keeps, / {each}",
    )


def _memory(name: str) -> float:
    """GiB."""
    family, _, size = name.removeprefix("db.").partition(".")
    large = next((gib for pattern, gib in _LARGE if re.fullmatch(pattern, family)), None)
    several = re.fullmatch(r"(\d*)xlarge", size)
    part = 2.0 * int(several[1] or 1) if several else _SIZES.get(size)
    if not name.startswith("db.") or large is None or part is None:
        raise ValueError(
            f"--instance {name} is not known here: give --max-connections (`show max_connections` tells it), "
            "or --live to ask the database"
        )
    return large * part


def _aurora_mysql(name: str, gib: float) -> int:
    """GREATEST(log2(memory / 805306368) * 45, log2(memory / 8187281408) * 1000), in the round steps of AWS's table."""
    if name.startswith("db.t"):
        return max(45 * round(math.log2(gib * _GIB / 805_306_368)), 45)
    return max(1_000 * round(math.log2(gib * _GIB / 8_187_281_408)), 1_000)
