"""Runs a schedule against a real server, and closes the books."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.namespace import Namespace

from .books import Entry, Told, Verdict, audit
from .environment import Environment, Seen, Strike
from .ground import Ground
from .schedule import (
    EITHER_WAY,
    FAILED_OVER,
    SCHEMA_CHANGED,
    UNDECORATED,
    Act,
    Way,
    expected_failures,
    units,
)
from .vault import open_vault

AMPLE = 3.0
"""Seconds that are enough for an invocation without a fault."""
GRACE = 0.1
"""Seconds after its deadline at which an invocation counts as late."""

STALE = ("cached plan must not change", "cache lookup failed", "Table definition has changed")
"""How a changed schema is recognised."""


@dataclass
class Ending:
    """What the function noted at its own end."""

    took: float
    late: float
    """Seconds after the deadline; negative before it. Without those that the handler was `held`."""
    held: float
    """Seconds after the deadline at which the handler still waited for its fault to strike."""
    error: str
    own: bool
    """No error, or one that the handler raised for reasons of its own or had asked for."""
    alarm: bool
    """NotCommitted, although the handler hid no error and left nothing unfinished."""
    found: str
    """What the handler found that nobody should have left behind. Empty: nothing."""


@dataclass
class Ledger:
    """All that is known about a run."""

    engine: str
    seen: list[Seen] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    told: dict[str, Told] = field(default_factory=dict)
    endings: dict[str, Ending] = field(default_factory=dict)
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0

    def entries(self) -> Iterator[Entry]:
        """Each transaction that was to be written. Nothing told: its environment ended before it could be."""
        for seen in self.seen:
            for unit, rows in units(seen.step).items():
                if unit not in self.told and seen.step.unit in self.endings:
                    raise AssertionError(f"the function ended and said nothing of {unit}")
                yield Entry(unit, rows, self.told.get(unit, Told.UNKNOWN))

    def outcome(self, seen: Seen) -> str:
        """What an invocation was told on the whole: `saved` if all went as it asked for."""
        found = {unit: self.told.get(unit, Told.UNKNOWN) for unit in units(seen.step)}
        wrong = {told for unit, told in found.items() if told not in self._wanted(seen, unit)}
        for told in (Told.UNKNOWN, Told.UNCERTAIN, Told.FAILED):
            if told in wrong:
                return told.value
        return "saved"

    def _wanted(self, seen: Seen, unit: str) -> set[Told]:
        if seen.step.door in EITHER_WAY:
            return {Told.FAILED, Told.ACKNOWLEDGED, Told.UNCERTAIN}
        return {Told.FAILED if unit in expected_failures(seen.step, self.engine) else Told.ACKNOWLEDGED}

    def late(self) -> dict[str, float]:
        """The invocations past their deadline by more than the grace, and by how much.

        Not counted: for how long we held an environment still in the middle of one, and what is `Ending.held`.
        """
        late = {seen.step.unit: self.lateness(seen) for seen in self.seen}
        return {unit: seconds for unit, seconds in late.items() if seconds > GRACE}

    def lateness(self, seen: Seen) -> float:
        """Seconds after its deadline at which an invocation ended: negative before it, and where that is not known."""
        if seen.step.door in UNDECORATED:
            return float("-inf")  # nobody told the pool when the invocation ends
        if seen.caller == "Sandbox.Timedout":
            return float("inf")
        ending = self.endings.get(seen.step.unit)
        return float("-inf") if ending is None else ending.late - seen.stopped

    def thawed_with_errors(self) -> dict[str, str]:
        """The invocations after a fault that struck while the environment was frozen, and what went wrong in them."""
        found = {}
        for seen in self.seen:
            if not seen.frozen or self._is_stale(seen):
                continue
            ending = self.endings.get(seen.step.unit)
            if ending is None or not ending.own or self.outcome(seen) != "saved":
                found[seen.step.unit] = self.error(seen)
        return found

    def false_alarms(self) -> dict[str, str]:
        """The invocations that were told that something is not saved, although they left nothing unsaved."""
        return {unit: ending.error for unit, ending in self.endings.items() if ending.alarm}

    def left_behind(self) -> dict[str, str]:
        """What invocations found that nobody should have left behind."""
        return {unit: ending.found for unit, ending in self.endings.items() if ending.found}

    def _is_stale(self, seen: Seen) -> bool:
        """Whether an invocation ended with an error that is due to a changed schema."""
        return any(text in self.error(seen) for text in STALE)

    def stale(self) -> list[str]:
        """The invocations that met a changed schema."""
        return [seen.step.unit for seen in self.seen if self._is_stale(seen)]

    def still_stale(self) -> dict[str, str]:
        """The invocations that met a changed schema, though `run` was to replay them, or another had met it before.

        Each of an environment's pools may show each change once.
        """
        found = {}
        forgiven: set[tuple[int, bool]] = set()
        for seen in self.seen:
            pool = (seen.environment, seen.step.door == "reads_on_autocommit")
            if seen.step.fault is not None and seen.step.fault.kind == SCHEMA_CHANGED:
                forgiven |= {(seen.environment, False), (seen.environment, True)}
            if self._is_stale(seen):
                if pool not in forgiven or seen.step.door == "reads_in_run":
                    found[seen.step.unit] = self.error(seen)
                forgiven.discard(pool)
        return found

    def failed_untouched(self) -> dict[str, str]:
        """The invocations that no fault met or was to meet, and that were not told what they asked for.

        Only those that had enough time: a busy machine may be too slow for the others.
        """
        struck = {unit for strike in self.strikes for unit in strike.hit}
        struck |= {seen.step.unit for seen in self.seen if seen.step.fault is not None}
        return {
            seen.step.unit: f"{seen.step.door}: {self.outcome(seen)}, {self.error(seen)}"
            for seen in self.seen
            if seen.step.budget >= AMPLE
            and seen.step.unit not in struck
            and not self._is_stale(seen)
            and self.outcome(seen) != "saved"
        }

    def error(self, seen: Seen) -> str:
        """What went wrong in an invocation, as it or its caller says."""
        ending = self.endings.get(seen.step.unit)
        return ending.error if ending is not None else seen.caller

    def check(self) -> None:
        """Raise AssertionError unless every promise was kept."""
        assert self.verdict.agrees, str(self.verdict)
        assert not self.late(), f"past their deadlines, by seconds: {self.late()}"
        assert not self.thawed_with_errors(), f"after a fault while frozen: {self.thawed_with_errors()}"
        assert not self.false_alarms(), f"not saved, they were told, and nothing was unsaved: {self.false_alarms()}"
        assert not self.left_behind(), f"left behind: {self.left_behind()}"
        assert not self.failed_untouched(), f"no fault met them: {self.failed_untouched()}"
        assert not self.still_stale(), f"still on an old schema: {self.still_stale()}"


Watch = Callable[[int, Sequence[Environment]], None]
"""Called between two acts with the number of invocations so far."""


@contextmanager
def open_environments(
    engine: str, ways: Sequence[Way], env: dict[str, str] | None = None, *, followed: bool = False
) -> Iterator[tuple[Ground, list[Environment]]]:
    """A server, and an environment for each way to it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ledger-")))
        namespace = stack.enter_context(Namespace())
        ground = stack.enter_context(Ground(engine, namespace, followed=followed))
        vault = stack.enter_context(open_vault())
        environments = []
        for number, way in enumerate(ways):
            environment = Environment(number, way, ground, vault, folder, env)
            stack.callback(environment.close)
            environment.start()
            environments.append(environment)
        yield ground, environments


def run(
    engine: str,
    acts: Sequence[Act],
    ways: Sequence[Way],
    *,
    env: dict[str, str] | None = None,
    watch: Watch | None = None,
) -> Ledger:
    """Play the schedule, read the diaries and the table, and compare. A schedule may hold one failover."""
    ledger = Ledger(engine)
    began = time.monotonic()
    followed = any(act.fault is not None and act.fault.kind == FAILED_OVER for act in acts)
    with open_environments(engine, ways, env, followed=followed) as (ground, environments):
        if followed:
            ground.follow()
        with ThreadPoolExecutor(len(environments)) as threads:
            for act in acts:
                _play(act, ledger, ground, environments, threads)
                if watch is not None:
                    watch(len(ledger.seen), environments)
        for environment in environments:
            _read(environment.diary, ledger)
            ledger.strikes += environment.strikes
        ledger.verdict = audit(ledger.entries(), ground.rows())
    ledger.seconds = time.monotonic() - began
    return ledger


def _play(
    act: Act, ledger: Ledger, ground: Ground, environments: list[Environment], threads: ThreadPoolExecutor
) -> None:
    frozen = act.frozen and False not in [environment.freeze() for environment in environments]
    strike = None
    heal: Callable[[], None] = _nothing
    if act.fault is not None and (frozen or act.early):
        strike = Strike(act.fault.kind, None, frozen, time.monotonic(), 0.0)
        heal = _strike(ground, act.fault.kind, environments)
        if frozen and not act.late:
            heal()
            heal = _nothing
    for environment in environments:
        environment.thaw()
    working = [
        threads.submit(environment.work, steps, frozen=frozen and act.fault is not None)
        for environment, steps in zip(environments, act.steps, strict=True)
    ]
    if act.fault is not None:
        if strike is None:
            time.sleep(act.delay)
            strike = Strike(act.fault.kind, None, False, time.monotonic(), 0.0)
            heal = _strike(ground, act.fault.kind, environments)
        time.sleep(act.fault.hold if heal is not _nothing else 0.0)
        heal()
        strike.ended = time.monotonic()
        ledger.strikes.append(strike)
    done = [seen for future in working for seen in future.result()]
    ledger.seen += done
    if strike is not None:
        if strike.frozen:
            firsts = {steps[0].unit for steps in act.steps}
            strike.hit = [seen.step.unit for seen in done if seen.step.unit in firsts]
        else:
            strike.hit = [seen.step.unit for seen in done if seen.began < strike.ended and seen.ended > strike.began]


def _nothing() -> None:
    pass


def _strike(ground: Ground, kind: str, environments: list[Environment]) -> Callable[[], None]:
    """Strike the server. Out: what heals it."""
    users = [environment.user for environment in environments]
    if kind == "server killed":
        ground.server.kill()
        return ground.server.start  # type: ignore[no-any-return]
    if kind == FAILED_OVER:
        ground.server.kill()

        def take_over() -> None:
            ground.take_over()
            for environment in environments:
                environment.lead_to(ground.server.port)

        return take_over
    if kind == "server restarted":
        ground.server.stop("fast")
        return ground.server.start  # type: ignore[no-any-return]
    if kind == "server stopped":
        ground.server.pause()
        return ground.server.resume  # type: ignore[no-any-return]
    if kind == "too many connections":
        ground.fill_slots(users)
        return ground.leave
    if kind == "turned reader":
        ground.read_only(True)
        for user in users:
            ground.end_sessions(user)
        return lambda: ground.read_only(False)
    if kind == "disk full":
        ground.fill_disk()
        return ground.empty_disk
    raise ValueError(kind)


def _read(diary: Path, ledger: Ledger) -> None:
    if not diary.exists():
        return
    for text in diary.read_text().splitlines():
        line: dict[str, Any] = json.loads(text)
        if "end" in line:
            unit = line.pop("end")
            ledger.endings[unit] = Ending(**line)
        elif ledger.told.setdefault(line["unit"], Told(line["told"])) is not Told(line["told"]):
            raise AssertionError(f"the function said two things of {line['unit']}")
