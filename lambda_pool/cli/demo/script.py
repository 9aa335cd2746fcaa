"""The script that each way goes through on the genuine Lambda runtime, and what is measured meanwhile."""

from __future__ import annotations

import contextlib
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lambda_pool.cli.demo.databases import ENOUGH, ON_HAND, Database
from lambda_pool.cli.demo.traffic import Traffic
from lambda_pool.cli.demo.ways import WAYS, Way
from lambda_pool.cli.terminal import StepLines
from lambda_pool.testing.answers import Invocation
from lambda_pool.testing.runtime import LambdaRuntime

_DECLINED = "card declined"  # what the handlers raise
_TIMEOUT = 10  # the functions' timeout, seconds
_TURNS = 5
STRAY = "an order was saved though its own invocation had failed"
LOST = "an order was not saved though its invocation had succeeded"


@dataclass(frozen=True)
class Length:
    """How often each step does what it does. Warm invocations come in `_TURNS` equal turns."""

    warm: int = 20
    kills: int = 5
    failures: int = 3
    after_restart: int = 5
    long: int = 200


QUICK = Length(warm=5, kills=2, failures=1, after_restart=2, long=20)


@dataclass
class Measured:
    """One way in one step."""

    invocations: int = 0
    good: int = 0
    """Orders that should be taken."""
    failed: int = 0
    """Invocations that did not end as they should: a good order refused, or a bad one for a wrong reason."""
    stray: int = 0
    """Orders saved without a successful invocation, and the other way round."""
    left_open: int = 0
    """Times that the environment was frozen with a transaction open."""
    ended: int = 0
    """Sessions that the server ended."""
    traffic: Traffic = field(default_factory=Traffic)
    milliseconds: list[float] = field(default_factory=list)
    """Of the good orders that were taken, as the caller saw them."""
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def errors(self) -> int:
        """Failed invocations and stray orders."""
        return self.failed + self.stray

    @property
    def median(self) -> float | None:
        """Milliseconds, or None if no good order was taken."""
        return statistics.median(self.milliseconds) if self.milliseconds else None

    def add(self, other: Measured) -> None:
        """Sum up."""
        self.invocations += other.invocations
        self.good += other.good
        self.failed += other.failed
        self.stray += other.stray
        self.left_open += other.left_open
        self.ended += other.ended
        self.traffic += other.traffic
        self.milliseconds += other.milliseconds
        self.reasons += other.reasons


class Function:
    """One way's function in its execution environment."""

    def __init__(self, way: Way, runtime: LambdaRuntime, database: Database, progress: StepLines) -> None:
        self.way = way
        self.measured: Measured = Measured()
        self._runtime = runtime
        self._database = database
        self._progress = progress
        self._owed = 0  # orders that should be saved by now

    @contextlib.contextmanager
    def step(self) -> Iterator[Measured]:
        """Thaw, measure what is done inside, and freeze again."""
        self._runtime.thaw()
        self.measured = Measured()
        before = self._database.traffic(self.way.module)
        yield self.measured
        self._runtime.freeze()
        self.measured.traffic = self._database.traffic(self.way.module) - before
        self._look_for_strays()

    def _look_for_strays(self) -> None:
        difference = self._database.orders(self.way.module) - self._owed
        if difference:
            self.measured.stray += abs(difference)
            self.measured.reasons[STRAY if difference > 0 else LOST] += abs(difference)
            self._owed += difference

    def order(self) -> None:
        """Order one piece, which should work."""
        invocation = self._invoke({"item": "book", "quantity": 1, "card": "ok"})
        self.measured.good += 1
        if invocation.error is None:
            self._owed += 1
            self.measured.milliseconds.append(invocation.milliseconds)
        else:
            self._failed(invocation.error)

    def order_with_a_bad_card(self) -> None:
        """Both statements succeed, then the handler raises."""
        self._refused({"item": "book", "quantity": 1, "card": "declined"}, _DECLINED)

    def order_too_many(self) -> None:
        """The second statement is refused by the server."""
        self._refused({"item": "book", "quantity": 2 * ON_HAND, "card": "ok"}, ENOUGH)

    def _refused(self, event: dict[str, object], reason: str) -> None:
        invocation = self._invoke(event)
        if invocation.error is None:
            self._failed({"errorType": "Nothing", "errorMessage": f"an order that should fail ({reason}) did not"})
        elif reason not in str(invocation.error.get("errorMessage")):
            self._failed(invocation.error)
        self._runtime.freeze()
        self.measured.left_open += self._database.open_transactions(self.way.module)
        self._runtime.thaw()

    def _invoke(self, event: dict[str, object]) -> Invocation:
        self.measured.invocations += 1
        self._progress.tick(f"{self.way.title}: invocation {self.measured.invocations}")
        return self._runtime.invoke(event)

    def _failed(self, error: dict[str, object]) -> None:
        self.measured.failed += 1
        text = str(error.get("errorMessage", "")).strip().partition("\n")[0]
        self.measured.reasons[f"{error.get('errorType')}: {text}"] += 1

    def kill_while_frozen(self) -> None:
        """The server ends the session, as an administrator or an idle timeout does, and the client cannot notice."""
        self._runtime.freeze()
        self.measured.ended += self._database.kill(self.way.module)
        self._runtime.thaw()


@dataclass(frozen=True)
class Step:
    """What each function does in turn. `restarts`: the server restarts first, with all environments frozen.

    `turns`: how often each takes its turn, so that a noisy moment of the machine meets all of them.
    """

    title: str
    work: Callable[[Function], None]
    restarts: bool = False
    turns: int = 1


def steps(length: Length) -> list[Step]:
    """The script."""

    def orders(number: int) -> Callable[[Function], None]:
        def work(function: Function) -> None:
            for _ in range(number):
                function.order()

        return work

    def killed(function: Function) -> None:
        for _ in range(length.kills):
            function.kill_while_frozen()
            function.order()
            function.order()

    def half_way(function: Function) -> None:
        for _ in range(length.failures):
            function.order_with_a_bad_card()
            function.order()
            function.order_too_many()
            function.order()

    return [
        Step("cold start", Function.order),
        Step(f"{length.warm} warm invocations", orders(length.warm // _TURNS), turns=_TURNS),
        Step(f"{length.kills} x killed in freeze", killed),
        Step(f"{2 * length.failures} x fails half way", half_way),
        Step("server restart", orders(length.after_restart), restarts=True),
        Step(f"{length.long} warm invocations", orders(length.long // _TURNS), turns=_TURNS),
    ]


@dataclass(frozen=True)
class Result:
    """All that was measured."""

    database: str
    engine: str
    steps: list[str]
    cells: dict[Way, list[Measured]]
    """One for each step."""

    def total(self, way: Way) -> Measured:
        """All steps of one way, summed up."""
        total = Measured()
        for cell in self.cells[way]:
            total.add(cell)
        return total


def play(database: Database, length: Length, progress: StepLines) -> Result:
    """Run the whole script against a database that is not started yet; everything is stopped afterwards."""
    script = steps(length)
    cells: dict[Way, list[Measured]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        progress.begin("start the server and three Lambda environments")
        stack.enter_context(database)
        functions = [_start(way, database, progress, stack) for way in WAYS]
        progress.end()
        for number, step in enumerate(script, 1):
            progress.begin(f"[{number}/{len(script)}] {step.title}")
            ended = dict.fromkeys(WAYS, 0)
            if step.restarts:
                ended = {way: database.sessions(way.module) for way in WAYS}
                database.restart()
            for way in WAYS:
                cells[way].append(Measured(ended=ended[way]))
            for _ in range(step.turns):
                for function in functions:
                    with function.step() as measured:
                        step.work(function)
                    cells[function.way][-1].add(measured)
            progress.end()
        return Result(database.title, database.engine, [step.title for step in script], cells)


def _start(way: Way, database: Database, progress: StepLines, stack: contextlib.ExitStack) -> Function:
    runtime = LambdaRuntime(
        f"{way.module}.handler",
        code_dir=way.source(database.engine).parent,
        env=database.add(way.module),
        timeout=_TIMEOUT,
        function_name=way.module,
    )
    return Function(way, stack.enter_context(runtime), database, progress)
