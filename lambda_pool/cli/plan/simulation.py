"""Simulates a fleet on one database: which logins find room, who waits, who fails. The rules are the pool's own.

It works with discrete events and seeded chance: a hundred thousand environments take seconds, and need no server.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lambda_pool.backoff import crowded_backoff
from lambda_pool.core.policy import keep
from lambda_pool.crowding import AGAIN

_SAMPLES = 200


@dataclass(frozen=True)
class Traffic:
    """The invocations to come.

    Times are seconds. An invocation takes a log-normal time around `median`, at most `longest`.
    """

    functions: int = 20
    size: int = 50
    """Most environments of one function."""
    burst: int = 50
    """Invocations of one function at once, each function in its turn, every `period` seconds."""
    period: float = 1.2
    trickle: float = 10.0
    """Further invocations a second, four fifths of them for a fifth of the functions."""
    running: int = 60
    """Most invocations that run at once; others wait for their turn, as in a queue."""
    median: float = 0.2466
    sigma: float = 0.8
    longest: float = 3.0
    statement: float = 0.015
    """Seconds of an invocation's statement, on top of the rest."""
    seconds: float = 75.0
    seed: int = 7


@dataclass(frozen=True)
class Database:
    """The server, and the pool's options. `limit`: connections that it allows; `others`: those that others hold."""

    limit: int
    others: int = 0
    keep_below: float = 0.6
    session_idle: float = 60.0
    timeout: float = 5.0
    login: float = 0.01
    """Seconds that a login takes, also one that is refused."""


class Arrival(NamedTuple):
    """One invocation to come."""

    at: float
    function: int
    elsewhere: float
    statement: float


class Sample(NamedTuple):
    """Sessions of the fleet at one moment: with an invocation, and of frozen environments."""

    at: float
    at_work: int
    kept: int


@dataclass
class Found:
    """What the simulation found."""

    invocations: int = 0
    failed: int = 0
    environments: int = 0
    logins: int = 0
    """Attempts, including those that were refused."""
    refused: int = 0
    most_sessions: int = 0
    most_running: int = 0
    seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    """Seconds that each successful checkout took."""
    samples: list[Sample] = field(default_factory=list)

    def wait(self, part: float) -> float:
        """The quantile of the waits."""
        found = sorted(self.waits) or [0.0]
        return found[min(int(len(found) * part), len(found) - 1)]

    @property
    def refused_part(self) -> float:
        """The refused part of all logins."""
        return self.refused / max(self.logins, 1)

    @property
    def logins_a_second(self) -> float:
        """On average."""
        return self.logins / max(self.seconds, 1e-9)


def schedule(traffic: Traffic) -> list[Arrival]:
    """All invocations, in order."""
    chance = random.Random(traffic.seed)  # noqa: S311 - nothing here is secret

    def arrival(at: float, function: int) -> Arrival:
        elsewhere = min(chance.lognormvariate(math.log(traffic.median), traffic.sigma), traffic.longest)
        return Arrival(at, function, elsewhere, min(chance.expovariate(1 / traffic.statement), 0.1))

    found, at, turn = [], 1.0, 0
    while at < traffic.seconds:
        found += [arrival(at + chance.random() * 0.1, turn % traffic.functions) for _ in range(traffic.burst)]
        at += traffic.period
        turn += 1
    at, hot = 0.0, max(traffic.functions // 5, 1)
    while traffic.trickle and (at := at + chance.expovariate(traffic.trickle)) < traffic.seconds:
        found.append(arrival(at, chance.randrange(hot if chance.random() < 0.8 else traffic.functions)))
    return sorted(found)


class _Environment:
    __slots__ = ("ask_at", "ended_at", "function", "open", "session")

    def __init__(self, function: int) -> None:
        self.function = function
        self.open = False
        self.session = 0  # counts its sessions, so that a timer knows which one it is for
        self.ask_at = 0.0
        self.ended_at = 0.0


def simulate(traffic: Traffic, database: Database) -> Found:
    """Run it to its end."""
    return _Simulation(traffic, database).run()


class _Simulation:
    def __init__(self, traffic: Traffic, database: Database) -> None:
        self._traffic = traffic
        self._database = database
        self._chance = random.Random(traffic.seed)  # noqa: S311
        self._events: list[tuple[float, int, Iterator[float]]] = []
        self._number = 0
        self._idle: list[list[_Environment]] = [[] for _ in range(traffic.functions)]
        self._count = [0] * traffic.functions
        self._queued: deque[Arrival] = deque()
        self._running = 0
        self._sessions = 0
        self._kept = 0
        self._now = 0.0
        self.found = Found()

    def run(self) -> Found:
        """Run until nothing is left to happen."""
        arrivals = schedule(self._traffic)
        for arrival in arrivals:
            self._at(arrival.at, self._arrive(arrival))
        end = max((arrival.at for arrival in arrivals), default=1.0)
        next_sample = 0.0
        while self._events:
            self._now, _, process = heapq.heappop(self._events)
            while next_sample <= min(self._now, end):
                self.found.samples.append(Sample(next_sample, self._sessions - self._kept, self._kept))
                next_sample += end / _SAMPLES
            wait = next(process, None)
            if wait is not None:
                self._at(self._now + wait, process)
        self.found.environments = sum(self._count)
        self.found.seconds = end
        return self.found

    def _at(self, moment: float, process: Iterator[float]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment, self._number, process))

    # --- Lambda -------------------------------------------------------------------------------------------------------

    def _arrive(self, arrival: Arrival) -> Iterator[float]:
        self._queued.append(arrival)
        self._hand_out()
        yield from ()

    def _hand_out(self) -> None:
        """Start what may run: in the environment that was used last, else in a new one."""
        passed: list[Arrival] = []
        while self._queued and self._running < self._traffic.running:
            arrival = self._queued.popleft()
            idle = self._idle[arrival.function]
            if idle:
                environment = idle.pop()
            elif self._count[arrival.function] < self._traffic.size:
                environment = _Environment(arrival.function)
                self._count[arrival.function] += 1
            else:
                passed.append(arrival)
                continue
            self._running += 1
            self.found.most_running = max(self.found.most_running, self._running)
            self._at(self._now, self._invocation(environment, arrival))
        self._queued.extendleft(reversed(passed))

    # --- the pool -----------------------------------------------------------------------------------------------------

    def _invocation(self, environment: _Environment, arrival: Arrival) -> Iterator[float]:
        began = self._now
        database = self._database
        if environment.open:
            self._kept -= 1
            if database.session_idle and began - environment.ended_at > database.session_idle - 1:
                self._close(environment)
        while not environment.open:
            yield database.login
            self.found.logins += 1
            if self._sessions < database.limit - database.others:
                self._open(environment)
                break
            self.found.refused += 1
            left = began + database.timeout - self._now
            pause = crowded_backoff(left, self._chance.random)
            if pause >= left:
                break
            yield pause
        self.found.invocations += 1
        if environment.open:
            self.found.waits.append(self._now - began)
            yield arrival.elsewhere + arrival.statement
            self._keep_or_close(environment)
        else:
            self.found.failed += 1
        self._running -= 1
        environment.ended_at = self._now
        self._idle[environment.function].append(environment)
        self._hand_out()

    def _open(self, environment: _Environment) -> None:
        environment.open = True
        environment.session += 1
        environment.ask_at = 0.0
        self._sessions += 1
        self.found.most_sessions = max(self.found.most_sessions, self._sessions)

    def _close(self, environment: _Environment) -> None:
        environment.open = False
        self._sessions -= 1

    def _keep_or_close(self, environment: _Environment) -> None:
        """The end of an invocation: keep while there is room."""
        database = self._database
        if self._now >= environment.ask_at and database.keep_below < 1:
            if not database.keep_below or not keep(
                self._sessions + database.others, database.limit, database.keep_below
            ):
                self._close(environment)
                return
            environment.ask_at = self._now + AGAIN
        self._kept += 1
        if database.session_idle:
            self._at(self._now + database.session_idle, self._timer(environment, environment.session, self._now))

    def _timer(self, environment: _Environment, session: int, since: float) -> Iterator[float]:
        """The server ends a session that has been idle for `session_idle` seconds."""
        if environment.open and environment.session == session and environment.ended_at == since:
            self._kept -= 1
            self._close(environment)
        yield from ()
