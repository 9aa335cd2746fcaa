"""A FastAPI server with many requests at once: how many it answers in a second, and how long they wait."""

import asyncio
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from lambda_pool.testing import PostgresServer
from lambda_pool.testing.ports import free_ports

from . import ways
from .environments import ROOT
from .rounds import figure, ratio, shuffled
from .served import OURS, WAYS

NAME = "server"
SIZE = 8
"""Connections."""
CLIENTS = 64
"""At once: the default of a Web Function."""
REQUESTS = 600
"""Of all clients together, in each round of each way."""
ROUNDS = 15
WARM_UP = 600


@contextlib.contextmanager
def serving(way: str, url: str) -> Iterator[str]:
    """An address where uvicorn serves that way."""
    port = free_ports(1)[0]
    variables = os.environ | {"WAY": way, "URL": url, "SIZE": str(SIZE)}
    arguments = (sys.executable, "-m", "uvicorn", "benchmarks.served:app", "--port", str(port), "--log-level", "error")
    process = subprocess.Popen(arguments, cwd=ROOT, env=variables)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/stock/1"
    finally:
        process.terminate()
        process.wait(30)


async def storm(client: Any, address: str, requests: int) -> tuple[float, float, float]:
    """Requests a second, and the median and the 99th percentile of their times in milliseconds."""
    left = iter(range(requests))
    times: list[float] = []

    async def ask() -> None:
        for _ in left:
            began = time.perf_counter()
            async with client.get(address) as answer:
                said = await answer.text()
                if answer.status != 200:
                    raise RuntimeError(f"a request was answered {answer.status}: {said}")
            times.append((time.perf_counter() - began) * 1e3)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(ask())
    took = time.perf_counter() - started
    return requests / took, statistics.median(times), statistics.quantiles(times, n=100)[98]


async def _measure(url: str) -> dict[str, list[tuple[float, float, float]]]:
    import aiohttp

    rows: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as stack:
        addresses = {way: stack.enter_context(serving(way, url)) for way in WAYS}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS)) as client:
            for address in addresses.values():
                await storm(client, address, WARM_UP)
            for _ in range(ROUNDS):
                for way in shuffled(WAYS):
                    rows[way].append(await storm(client, addresses[way], REQUESTS))
    return rows


def measure() -> dict[str, Any]:
    """All ways in turns."""
    with PostgresServer(max_connections=100) as server:
        for statement in ways.SCHEMA[server.scheme]:
            server.execute(statement)
        rows = asyncio.run(_measure(server.url()))
    columns = {way: list(zip(*of, strict=True)) for way, of in rows.items()}
    found: dict[str, Any] = {
        way: {
            "requests_per_second": figure(column[0]),
            "median_ms": figure(column[1]),
            "p99_ms": figure(column[2]),
        }
        for way, column in columns.items()
    }
    for other in WAYS[1:]:
        found[other]["throughput_of_ours"] = ratio(columns[OURS][0], columns[other][0])
        found[other]["p99_of_ours"] = ratio(columns[OURS][2], columns[other][2])
    return {"size": SIZE, "clients": CLIENTS, "requests": REQUESTS, "rounds": ROUNDS, "ways": found}
