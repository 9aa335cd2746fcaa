"""How many connections RDS and Aurora allow by default, by the class of the instance or by its range of capacity.

Read in November 2026, all below https://docs.aws.amazon.com/AmazonRDS/latest/:
formulas of RDS: UserGuide/CHAP_Limits.html ("Maximum number of database connections");
Aurora's: AuroraUserGuide/AuroraMySQL.Managing.Performance.html and AuroraPostgreSQL.Managing.html;
serverless: AuroraUserGuide/aurora-serverless-v2.setting-capacity.html ("Maximum connections");
memory of a class: UserGuide/Concepts.DBInstanceClass.Summary.html.
"""

from __future__ import annotations

import difflib
import math
from typing import NamedTuple

_GIB = 1 << 30
# GiB of a family's size `large`; the other sizes are multiples of it.
_FAMILIES = {
    8.0: "t2 t3 t4g m4 m5 m5d m6g m6gd m6i m6id m6idn m6in m7g m7i m8a m8g m8gd m8i m9g",
    15.25: "r4",
    16.0: "r5 r5b r5d r6g r6gd r6i r6id r6idn r6in r7g r7i r8a r8g r8gd r8i z1d",
    30.5: "x1",
    32.0: "x2g x2idn",
    61.0: "x1e",
    64.0: "x2iedn x2iezn",
}
_LARGE = {family: gib for gib, families in _FAMILIES.items() for family in families.split()}
_BURSTABLE_SIZES = {"micro": 0.125, "small": 0.25, "medium": 0.5, "large": 1.0, "xlarge": 2.0, "2xlarge": 4.0}
_SIZES = {"large": 1.0, "xlarge": 2.0} | {
    f"{number}xlarge": 2.0 * number for number in (2, 3, 4, 6, 8, 10, 12, 16, 24, 32, 48, 96)
}
SERVERLESS = "db.serverless"


class _Formula(NamedTuple):
    """Bytes of memory for each connection, and the most connections."""

    each: int
    most: int

    def __str__(self) -> str:
        return f"LEAST({{DBInstanceClassMemory/{self.each}}}, {self.most})"


_FORMULAS = {
    "postgresql": _Formula(9_531_392, 5_000),
    "aurora-postgresql": _Formula(9_531_392, 5_000),
    "mysql": _Formula(12_582_880, 100_000),
    "mariadb": _Formula(25_165_760, 12_000),
}
# DBInstanceClassMemory is less than the class has, by what the system and RDS's own processes take. AWS does not say
# how much. These two give AWS's own table for Aurora PostgreSQL serverless (189 connections with 2 GiB, 3360 with 32).
_KEPT_GIB, _KEPT_PART = 0.196, 0.0617
_GIB_OF_ACU = 2.0
_MOST_WITHOUT_MEMORY = 2_000
"""The most connections of Aurora PostgreSQL with a least capacity below 1 ACU."""
_AURORA_MYSQL = "GREATEST({log(DBInstanceClassMemory/805306368)*45}, {log(DBInstanceClassMemory/8187281408)*1000})"
_MYSQL_BY_ACU = ((192, 6_000), (128, 5_000), (64, 4_000), (32, 3_000), (16, 2_000), (8, 1_000), (4, 135), (1, 90))
"""Aurora MySQL serverless: the highest capacity in ACU, and what it allows from there on."""


class Instance(NamedTuple):
    """A class, and what it allows by default."""

    max_connections: int
    source: str
    """How the number came about, in words."""


def of(name: str, engine: str) -> Instance:
    """An instance of the class `name`, such as db.t4g.micro. Raises ValueError for one that is not known here."""
    gib = _memory(name)
    if engine == "aurora-mysql":
        return Instance(_aurora_mysql(name, gib), f"by Aurora's default {_AURORA_MYSQL}, {name} has {gib:g} GiB")
    formula = _FORMULAS[engine]
    return Instance(
        _by_memory(gib, formula), f"about, by the default {formula}; {name} has {gib:g} GiB, and RDS keeps some of it"
    )


def of_capacity(text: str, engine: str) -> Instance:
    """An Aurora serverless instance with a range of capacity such as 0.5-16, in ACU. Raises ValueError."""
    lowest, _, highest = text.partition("-")
    try:
        least, most = float(lowest), float(highest)
    except ValueError:
        least = most = math.nan
    if not (0 <= least <= most and 1 <= most <= 256):
        raise ValueError(
            f"--acu {text} is not a range of capacity: write its minimum and its maximum ACU, as in 0.5-16"
        )
    if engine == "mariadb":
        raise ValueError("--acu is for Aurora, which has no MariaDB: give --engine aurora-mysql or aurora-postgresql")
    if engine.endswith("mysql"):
        found = next(limit for acu, limit in _MYSQL_BY_ACU if most >= acu)
    else:
        found = _by_memory(most * _GIB_OF_ACU, _FORMULAS["aurora-postgresql"])
        found = min(found, _MOST_WITHOUT_MEMORY) if least < 1 else found
    return Instance(found, f"Aurora's default for a capacity of {least:g} to {most:g} ACU")


def _memory(name: str) -> float:
    """The memory of a class in GiB."""
    if name == SERVERLESS:
        raise ValueError(
            f"--instance {name} has as much memory as its capacity says: give the capacity instead, as in --acu 0.5-16"
        )
    known = _known()
    if name not in known:
        near = difflib.get_close_matches(name if name.startswith("db.") else f"db.{name}", known, n=3)
        hint = f" (did you mean {', '.join(near)}?)" if near else ""
        raise ValueError(
            f"--instance {name} is not known here{hint}: give --max-connections (`show max_connections` prints it), or "
            "--live to ask the database"
        )
    return known[name]


def _known() -> dict[str, float]:
    """GiB of every class."""
    return {
        f"db.{family}.{size}": large * part
        for family, large in _LARGE.items()
        for size, part in (_BURSTABLE_SIZES if family.startswith("t") else _SIZES).items()
    }


def _by_memory(gib: float, formula: _Formula) -> int:
    usable = gib * (1 - _KEPT_PART) - _KEPT_GIB
    return min(int(usable * _GIB / formula.each), formula.most)


def _aurora_mysql(name: str, gib: float) -> int:
    """The formula in the round steps of AWS's table."""
    if name.startswith("db.t"):
        return max(45 * round(math.log2(gib * _GIB / 805_306_368)), 45)
    return max(1_000 * round(math.log2(gib * _GIB / 8_187_281_408)), 1_000)
