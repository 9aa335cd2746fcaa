"""Ports for the servers of tests: no two processes are given the same one, however many run side by side (Linux)."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

_LOWEST = 10_000
_PORTS_EACH = 600
_SYSTEMS_OWN = Path("/proc/sys/net/ipv4/ip_local_port_range")


class _Claim:
    """A range of ports that is this process's own, as long as it lives."""

    def __init__(self) -> None:
        self.process = os.getpid()
        name = socket.socket(socket.AF_UNIX)
        # The range is below the ports that the system gives to outgoing connections, so a server that is stopped
        # finds its port free when it starts again. If no such range is free, the system chooses.
        self.ports: Iterator[int] = itertools.repeat(0)
        end = int(_SYSTEMS_OWN.read_text().split()[0])
        for first in range(_LOWEST, end - _PORTS_EACH, _PORTS_EACH):
            try:
                # An abstract name: it is free again when the process ends, however it ends.
                name.bind(f"\0lambda_pool.testing.ports.{first}")
            except OSError:
                continue
            self.ports = itertools.cycle(range(first, first + _PORTS_EACH))
            break
        # It stays open for as long as the process lives.
        name.detach()


_claims: list[_Claim] = []

kept: set[int] = set()
"""Ports of this process's servers. Nobody else is given one, because a server that is down needs its port again."""


def free_ports(count: int) -> list[int]:
    """Return `count` different TCP ports of 127.0.0.1 that nobody listens on now, and that are not `kept`.

    A process that does not ask here may take one before it is used, so a caller starts its server in a loop. Raises
    OSError if none is free.
    """
    # A forked child has its parent's range in memory, and needs another.
    if not _claims or _claims[-1].process != os.getpid():
        _claims.append(_Claim())
    with ExitStack() as stack:
        return [_bind(stack.enter_context(socket.socket()), _claims[-1].ports) for _ in range(count)]


def _bind(listener: socket.socket, ports: Iterator[int]) -> int:
    for attempt in range(_PORTS_EACH):
        try:
            listener.bind(("127.0.0.1", next(port for port in ports if port not in kept)))
        except OSError:
            if attempt + 1 == _PORTS_EACH:
                raise
            continue
        return int(listener.getsockname()[1])
    raise AssertionError("unreachable")
