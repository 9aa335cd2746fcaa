"""What happens in a run, as a pure function of its seed: who is invoked how, and what strikes when.

What is decided here: every environment's invocations in their order (door, rows, budget), every fault with its kind,
its parameters and its place: before an invocation, at a named point inside of it, while the environment is frozen, or a
number of seconds after a group of invocations began. Which byte or statement of a *timed* fault's victims is hit is
timing, and differs between two runs of one seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

Way = Literal["proxy", "secret", "namespace"]
"""How an environment reaches the server: through a faulty proxy; so, with a secret that rotates; from a network
namespace whose packets can be lost."""

WAYS: tuple[Way, ...] = ("proxy", "secret", "namespace", "proxy")

When = Literal["before", "point", "frozen"]

PLAIN = {
    "handler": 5,
    "connection": 4,
    "run": 5,
    "run_on_autocommit": 1,
    "autocommit": 2,
    "switched_to_autocommit": 1,
    "raises": 2,
    "swallows": 2,
    "swallows_in_run": 1,
    "savepoint": 1,
    "threads": 2,
}
"""Ways into the pool that it was made for, and how often each is taken: `doors.py` has them."""

IDIOMS = {
    "undecorated_connection": 1,
    "undecorated_run": 1,
    "decorated_in_a_block": 1,
    "decorated_in_a_decorated": 1,
    "with_conn": 1,
    "with_conn_in_a_block": 1,
    "transaction_first": 1,
    "transaction_first_raises": 1,
    "transaction_on_autocommit": 1,
    "commits": 1,
    "commits_then_raises": 1,
    "closes": 1,
    "closes_early": 1,
    "chains_in_run": 1,
    "thread_writes": 1,
    "thread_at_work": 1,
    "thread_outlives": 1,
    "answers_400": 1,
    "answers_400_after_a_rollback": 1,
    "hides_a_failed_statement": 1,
    "fails_in_a_savepoint": 1,
    "hides_a_conflict": 1,
    "conflicts_in_run": 1,
    "reads": 1,
    "reads_in_run": 1,
    "reads_on_autocommit": 1,
    "changes_the_session": 1,
}
"""The others that people use: `idioms.py`, `endings.py` and `threading_doors.py` have them."""

DOORS = PLAIN | IDIOMS

ROW_BY_ROW = frozenset({"autocommit", "switched_to_autocommit", "reads_on_autocommit"})
"""Each row is its own transaction."""
TWO_HALVES = frozenset({"commits", "commits_then_raises", "chains_in_run"})
ONE_INSIDE_THE_OTHER = frozenset({"decorated_in_a_block", "decorated_in_a_decorated"})
SPEAK_FOR_THEMSELVES = (
    ROW_BY_ROW
    | TWO_HALVES
    | ONE_INSIDE_THE_OTHER
    | {"swallows", "threads", "with_conn", "with_conn_in_a_block", "transaction_on_autocommit", "closes"}
    | {"thread_at_work", "thread_outlives", "answers_400_after_a_rollback"}
)
"""Their transactions are reported one by one, inside."""
UNDECORATED = frozenset({"undecorated_connection", "undecorated_run", "decorated_in_a_block"})
"""Nobody knows their deadline: only Lambda's own timeout ends them."""
EITHER_WAY = frozenset({"thread_outlives"})
"""Whether it is saved is decided by a race that the function itself begins."""

THREADS = 3


@dataclass(frozen=True)
class Fault:
    """One fault. `after`: bytes; `hold`: seconds until it heals, where it does so by itself.

    `lasts`: it strikes new connections too, and stays until the invocation has ended, where a kind makes a difference.
    """

    kind: str
    direction: Literal["to_server", "to_client", ""] = ""
    after: int = 0
    hold: float = 0.0
    lasts: bool = False


@dataclass(frozen=True)
class Step:
    """One invocation of one environment. `budget`: seconds that it has. `size`: of each row's payload, in bytes.

    `point`: before which row the fault strikes; `rows` means: before COMMIT.
    """

    unit: str
    door: str
    rows: int
    budget: float
    size: int = 100
    fault: Fault | None = None
    when: When = "before"
    point: int = 0


@dataclass(frozen=True)
class Act:
    """A group of invocations, one sequence for each environment, side by side.

    `fault` strikes the server, and so all of them: `delay` seconds after their beginning, or `early`, before it, or
    while all are `frozen`; it is healed `hold` seconds later, or, where they were frozen, before they are thawed, but
    for those that heal `late`.
    """

    steps: tuple[tuple[Step, ...], ...]
    fault: Fault | None = None
    frozen: bool = False
    early: bool = False
    late: bool = False
    delay: float = 0.0


# How often each fault is drawn.
_NETWORK = {"cut": 30, "swallow": 10, "black hole": 4, "reset": 8, "end": 6, "delay": 6, "halve": 6, "refuse": 4}
_NAMESPACE = {"lost packets": 20}
_ANY = {"session ended": 16, "runtime stopped": 5, "runtime killed": 2, "login refused": 4}
_ANY |= {"statement cancelled": 4, "schema changed": 4}
_SECRET = {"password rotated": 10}
_FROZEN_NETWORK = {"reset": 5, "end": 5, "black hole": 5, "swallow": 3}
_FROZEN_NAMESPACE = {"session ended, unheard": 5}
_FROZEN_ANY = {"session ended": 8, "schema changed": 3}
_SERVER = {
    "server killed": 5,
    "server restarted": 3,
    "server stopped": 4,
    "too many connections": 3,
    "turned reader": 4,
    "disk full": 2,
}
_SERVER_FROZEN = {
    "server killed": 5,
    "server restarted": 3,
    "too many connections": 3,
    "turned reader": 3,
}
SCHEMA_CHANGED = "schema changed"
_ENDLESS = frozenset({"swallow", "black hole", "lost packets"})
"""What only a deadline ends."""
_UNDECORATED_ENDLESS = 0.1
"""How many of those an invocation without a deadline may have: each waits for Lambda's timeout."""
_MID_WAY = frozenset({"runtime stopped", "runtime killed", "statement cancelled"})
"""Faults that would have no effect on an invocation that has not begun."""
_EARLY = frozenset({"disk full", "too many connections"})
"""What takes longer to strike than a few invocations do, or else leaves them the connections that they have."""
_LATE = frozenset({"server killed", "server restarted", "too many connections"})

FAILED_OVER = "failed over"

STEPS = 12
"""Invocations of each environment in an act of many small faults."""
SERVER_STEPS = 4
"""Invocations of each environment in an act of one fault of the server."""
SHARE = 0.34
"""Of those invocations, how many are struck."""
_FULL = 200_000
"""Bytes of a row that a full disk has no room for."""


def make_schedule(
    seed: int,
    invocations: int,
    ways: Sequence[Way] = WAYS,
    *,
    share: float = SHARE,
    steps: int = STEPS,
    deaths: bool = True,
) -> list[Act]:
    """Acts with at least this many invocations in all.

    Each environment is invoked `steps` times, of which a `share` is struck by faults of its own; then comes one fault
    of the server's, and so on. `deaths`: environments, too, may end.
    """
    # Not hash-based: the same in every process and on every version of Python.
    random = Random(f"lambda_pool ledger {seed}")
    acts: list[Act] = []
    made = 0
    counts = [0] * len(ways)

    def step(environment: int, budget: float, size: int = 100) -> Step:
        counts[environment] += 1
        door = _draw(random, DOORS)
        return Step(f"{environment}-{counts[environment]}", door, random.randint(1, 4), budget, size)

    while made < invocations:
        small = tuple(
            tuple(
                _struck(random, step(number, 0.0), way, share=share, deaths=deaths, warm=bool(acts) or turn > 0)
                for turn in range(steps)
            )
            for number, way in enumerate(ways)
        )
        acts.append(Act(small))
        frozen = random.random() < 0.4
        kind = _draw(random, _SERVER_FROZEN if frozen else _SERVER)
        budget = 5.0 if frozen else random.uniform(0.7, 1.1)
        size = _FULL if kind == "disk full" else 100
        great = tuple(tuple(step(number, budget, size) for _ in range(SERVER_STEPS)) for number in range(len(ways)))
        fault = Fault(kind, hold=round(random.uniform(0.02, 0.4), 3))
        early = not frozen and (kind in _EARLY or random.random() < 0.2)
        late = frozen and kind in _LATE and random.random() < 0.5
        acts.append(Act(great, fault, frozen, early, late, round(random.uniform(0.0, 0.015), 4)))
        made += sum(len(steps) for steps in (*small, *great))
    return acts


def make_failover(seed: int, ways: Sequence[Way], *, frozen: bool, late: bool = False) -> list[Act]:
    """Quiet invocations, and one failover in the middle of them, or while all environments are frozen."""
    random = Random(f"lambda_pool failover {seed}")
    acts = []
    for number in range(5):
        middle = number == 2
        budget = 5.0 if frozen or not middle else 0.8
        steps = tuple(
            tuple(
                Step(f"{way}-{number}-{turn}", _draw(random, DOORS), random.randint(1, 4), budget)
                for turn in range(2 * STEPS)
            )
            for way in range(len(ways))
        )
        fault = Fault(FAILED_OVER, hold=round(random.uniform(0.0, 0.2), 3)) if middle else None
        acts.append(Act(steps, fault, middle and frozen, False, late, round(random.uniform(0.02, 0.1), 3)))
    return acts


def _draw(random: Random, weights: dict[str, int]) -> str:
    [found] = random.choices(list(weights), list(weights.values()))
    return found


def _struck(random: Random, step: Step, way: Way, *, share: float, deaths: bool, warm: bool) -> Step:
    """The step with a fault, or with none. The first invocation of a run is cold, and so cannot have been frozen."""
    fate = random.random()
    frozen = warm and fate < share * 0.25
    if fate >= share:
        return Step(step.unit, step.door, step.rows, 3.0)
    if frozen:
        kinds = _FROZEN_ANY | (_FROZEN_NAMESPACE if way == "namespace" else _FROZEN_NETWORK)
        kinds = kinds | (_SECRET if way == "secret" else {})
    else:
        kinds = _ANY | (_NAMESPACE if way == "namespace" else _NETWORK) | (_SECRET if way == "secret" else {})
        if not deaths:
            del kinds["runtime killed"]
    kind = _draw(random, kinds)
    if step.door in UNDECORATED and kind in _ENDLESS and (not deaths or random.random() > _UNDECORATED_ENDLESS):
        kind = "session ended"
    when: When = "frozen" if frozen else random.choice(("before", "point", "point"))
    # Every second time just before COMMIT: the 30 to 50 bytes of it and of its answer are the dangerous ones.
    point = step.rows if random.random() < 0.5 else random.randint(0, step.rows)
    longest = 60 if when == "point" and point == step.rows else 400
    fault = Fault(
        kind,
        direction=random.choice(("to_server", "to_client")),
        after=random.randint(0, longest),
        hold=round(random.uniform(0.01, 0.3), 3),
        lasts=random.random() < 0.3,
    )
    if kind in _MID_WAY:
        when = "point"
    budget = 5.0 if frozen else round(random.uniform(0.6, 1.0), 2)
    return Step(step.unit, step.door, step.rows, budget, step.size, fault, when, point)


def units(step: Step) -> dict[str, int]:
    """The transactions of an invocation: their names, and the number of their rows."""
    if step.door in ROW_BY_ROW or step.door == "swallows":
        # MySQL, after an error that was swallowed, saves what went before it.
        return {f"{step.unit}.{part}": 1 for part in range(step.rows)}
    if step.door == "threads":
        return {f"{step.unit}.{thread}": step.rows for thread in range(THREADS)}
    if step.door == "savepoint":
        return {step.unit: step.rows, f"{step.unit}.undone": 1}
    if step.door in TWO_HALVES:
        return {f"{step.unit}.first": step.rows, f"{step.unit}.second": step.rows}
    if step.door in ONE_INSIDE_THE_OTHER:
        return {f"{step.unit}.outer": step.rows, f"{step.unit}.inner": step.rows}
    return {step.unit: step.rows}


_SAVE_NOTHING = frozenset(
    {"raises", "transaction_first_raises", "closes_early", "thread_at_work", "answers_400_after_a_rollback"}
    | {"hides_a_conflict"}
)


def expected_failures(step: Step, engine: str) -> set[str]:
    """Those of its transactions that should not be saved even if nothing goes wrong."""
    if step.door in _SAVE_NOTHING or (step.door == "hides_a_failed_statement" and engine == "postgresql"):
        return {step.unit}
    if step.door == "commits_then_raises":
        return {f"{step.unit}.second"}
    return {f"{step.unit}.undone"} if step.door == "savepoint" else set()


def faults(acts: Sequence[Act]) -> int:
    """How many faults a schedule holds."""
    own = sum(step.fault is not None for act in acts for steps in act.steps for step in steps)
    return own + sum(act.fault is not None for act in acts)


def invocations(acts: Sequence[Act]) -> int:
    """How many invocations a schedule holds."""
    return sum(len(steps) for act in acts for steps in act.steps)
