"""Plays Lambda: an invocation goes to the last used idle environment of its function, otherwise to a new one.

`python -m benchmarks.fleet.router SPEC PORT OUT` runs in a process of its own, from which the environments are forked.
Each is thawed (SIGCONT) for an invocation and frozen (SIGSTOP) once its answer has arrived.
"""

import collections
import ctypes
import gc
import json
import logging
import os
import resource
import selectors
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path
from time import monotonic

from lambda_pool.cli.plan.simulation import Arrival, schedule

from .environment import EVENT, Place, live
from .spec import Done, Spec

_DIE_WITH_PARENT = 1  # prctl(2)
_ANSWER = 1 << 16


class Environment:
    """One process, as the router sees it."""

    def __init__(self, function: int, pid: int, sock: socket.socket) -> None:
        self.function = function
        self.pid = pid
        self.sock = sock
        self.arrived = self.began = 0.0


class Router:
    """The whole of Lambda, for one run."""

    def __init__(self, spec: Spec, port: int) -> None:
        self._spec = spec
        self._place = Place(spec, port)
        self._libc = ctypes.CDLL(None)
        self._me = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._idle: list[list[Environment]] = [[] for _ in range(spec.functions)]
        self._count = [0] * spec.functions
        self._all: list[Environment] = []
        self._waiting: collections.deque[Arrival] = collections.deque()
        self._running = self.most = 0
        self.done: list[Done] = []

    def run(self) -> None:
        """Run until all is done, or the time is up."""
        to_come = collections.deque(schedule(self._spec))
        start, end = monotonic(), self._spec.seconds + self._spec.grace
        try:
            while (now := monotonic() - start) < end and (to_come or self._running or self._waiting):
                while to_come and to_come[0].at <= now:
                    self._waiting.append(to_come.popleft())
                self._hand_out(now)
                wait = min(0.25, max(to_come[0].at - now, 0.0)) if to_come else 0.25
                for key, _ in self._selector.select(wait):
                    self._take(key.data, start)
            self.unfinished = self._running + len(self._waiting) + len(to_come)
        finally:
            for environment in self._all:
                os.kill(environment.pid, signal.SIGKILL)
            for environment in self._all:
                os.waitpid(environment.pid, 0)

    @property
    def environments(self) -> int:
        return len(self._all)

    def _hand_out(self, now: float) -> None:
        for _ in range(len(self._waiting)):
            if self._running >= self._spec.running:
                return
            arrival = self._waiting.popleft()
            idle = self._idle[arrival.function]
            if idle:
                environment = idle.pop()  # the one that was used last
                os.kill(environment.pid, signal.SIGCONT)
            elif self._count[arrival.function] < self._spec.size:
                environment = self._start(arrival.function)
            else:
                self._waiting.append(arrival)
                continue
            environment.arrived, environment.began = arrival.at, now
            self._running += 1
            self.most = max(self.most, self._running)
            environment.sock.send(EVENT.pack(arrival.elsewhere, arrival.statement, arrival.at))

    def _start(self, function: int) -> Environment:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                self._libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL)
                if os.getppid() == self._me:
                    os.dup2(theirs.detach(), 3)
                    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
                    live(self._place, socket.socket(fileno=3))
            finally:
                os._exit(1)
        theirs.close()
        environment = Environment(function, pid, ours)
        self._all.append(environment)
        self._count[function] += 1
        self._selector.register(ours, selectors.EVENT_READ, environment)
        return environment

    def _take(self, environment: Environment, start: float) -> None:
        answer = environment.sock.recv(_ANSWER)
        now = monotonic() - start
        self._running -= 1
        if answer:
            os.kill(environment.pid, signal.SIGSTOP)
            self._idle[environment.function].append(environment)
            error, checkout, counts = json.loads(answer)
        else:
            self._selector.unregister(environment.sock)
            error, checkout, counts = "the environment died", 0.0, {}
        self.done.append(Done(environment.arrived, environment.began, now, error, checkout, counts))


def main(arguments: list[str]) -> None:
    spec, port, out = Spec.of(arguments[0]), int(arguments[1]), Path(arguments[2])
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, most), most))
    logging.disable(logging.CRITICAL)
    os.environ["LAMBDA_POOL_METRICS"] = "off"
    if spec.engine == "postgresql":
        import psycopg  # noqa: F401 - once, and not in each environment
    else:
        import pymysql  # noqa: F401
    if spec.way == "lambda_pool":
        import lambda_pool.crowding
        import lambda_pool.testing  # noqa: F401
    elif spec.way == "SQLAlchemy, pre-ping":
        import sqlalchemy  # noqa: F401
    elif spec.way == "psycopg_pool":
        import psycopg_pool  # noqa: F401
    gc.collect()
    gc.freeze()
    router = Router(spec, port)
    began = monotonic()
    router.run()
    found = {
        "done": [asdict(each) for each in router.done],
        "environments": router.environments,
        "most": router.most,
        "unfinished": router.unfinished,
        "wall": monotonic() - began,
        "began": began,
    }
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
