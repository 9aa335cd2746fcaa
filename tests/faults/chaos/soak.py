"""Whether environments stay as small as they are: memory, descriptors, threads and server connections under chaos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .environment import Environment

EIGHTHS = 8
MEASURES = ("rss", "descriptors", "threads", "sessions")


@dataclass(frozen=True)
class Sample:
    """One environment between two invocations."""

    environment: int
    rss: int
    """KiB of memory."""
    descriptors: int
    threads: int
    sessions: int
    """On the server."""


@dataclass(frozen=True)
class Growth:
    """One measure of one environment: its middle and its peak in the first half of a run, and in the second."""

    environment: int
    measure: str
    first: float
    second: float
    first_peak: int
    second_peak: int
    course: tuple[float, ...]
    """The middle of each eighth of the run."""

    def __str__(self) -> str:
        course = " ".join(f"{at:.0f}" for at in self.course)
        return (
            f"environment {self.environment}: {self.measure:<11} {self.first:8.0f} -> {self.second:8.0f}"
            f"   peak {self.first_peak:7} -> {self.second_peak:7}   course {course}"
        )


class Meter:
    """Takes a sample of every environment after each group of invocations."""

    def __init__(self, every: int) -> None:
        self.samples: list[Sample] = []
        self._every = every
        self._next = 0

    def __call__(self, invocations: int, environments: Sequence[Environment]) -> None:
        """As the watch of a run."""
        if invocations < self._next:
            return
        self._next = invocations + self._every
        self.samples += [sample for sample in map(measure, environments) if sample is not None]


def measure(environment: Environment) -> Sample | None:
    """None while there is no process."""
    if environment.pid is None:
        return None
    process = Path(f"/proc/{environment.pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Sample(
        environment.number,
        int(status["VmRSS"].split()[0]),
        len(list((process / "fd").iterdir())),
        int(status["Threads"]),
        environment.sessions(),
    )


def growth(samples: Sequence[Sample], *, warm_up: float = 0.2) -> list[Growth]:
    """Both halves of each environment's run, after a first part in which caches may fill."""
    found = []
    for environment in sorted({sample.environment for sample in samples}):
        own = [sample for sample in samples if sample.environment == environment]
        own = own[int(len(own) * warm_up) :]
        half, part = len(own) // 2, len(own) // EIGHTHS
        if not part:
            raise ValueError(f"{len(own)} samples of environment {environment} are too few")
        for name in MEASURES:
            first = [getattr(sample, name) for sample in own[:half]]
            second = [getattr(sample, name) for sample in own[half:]]
            course = tuple(median([*first, *second][at * part : (at + 1) * part]) for at in range(EIGHTHS))
            found.append(Growth(environment, name, median(first), median(second), max(first), max(second), course))
    return found


def excess(found: Sequence[Growth], *, kib: int) -> list[Growth]:
    """What grew: memory by more than `kib` in the middle; descriptors and threads by one more than ever before.

    Sessions by two more than any before: the server may not have heard yet of one that has gone.
    """
    return [
        one
        for one in found
        if (
            one.second - one.first > kib
            if one.measure == "rss"
            else one.second_peak > one.first_peak + (2 if one.measure == "sessions" else 1)
        )
    ]
