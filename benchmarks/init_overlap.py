"""Which part of `warm()` during Init could overlap: how long it computes, and how long it only waits.

Overlapping can only save time spent waiting for the server and the network, not for a processor (the kernel tells them
apart in /proc/self/schedstat). Each round is a fresh process that imports, builds a pool and warms it over verified
TLS. Round trips are counted by holding every piece back for a while. The script prints medians.
Run: .venv/bin/python -m benchmarks.init_overlap
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from lambda_pool.testing import FaultyProxy, MariaDbServer, PostgresServer

ROUNDS = 21
HELD = 0.01  # seconds, for counting: each round trip takes longer by twice that

PROGRAM = """
import json, sys, time

marks = []
def mark(name):
    with open("/proc/self/schedstat") as file:
        queued = int(file.read().split()[1]) / 1e9
    ran = time.process_time()
    marks.append((name, ran, time.perf_counter() - ran - queued))

mark("start")
import os
import lambda_pool
mark("import lambda_pool")
url = os.environ["URL"]
if url.startswith("mysql"):
    import pymysql
else:
    import psycopg
mark("import the driver")
pool = lambda_pool.Pool(url, observers=())
mark("build the pool")
os.environ.update(AWS_ACCESS_KEY_ID="ASIAEXAMPLEKEY000001", AWS_SECRET_ACCESS_KEY="secret", AWS_SESSION_TOKEN="x" * 800)
lambda_pool.IamToken(region="eu-central-1").token("orders.example", 5432, "app")
mark("sign a token")
import socket
socket.getaddrinfo("localhost", 5432)
mark("resolve the name")
pool.warm(strict=True)
mark("connect")
print(json.dumps([
    (name, ran - before_ran, waited - before_waited)
    for (_, before_ran, before_waited), (name, ran, waited) in zip(marks, marks[1:])
]))
"""


def run(url: str) -> list[tuple[str, float, float]]:
    """One process: each stage, and the seconds that it computed and waited."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PATH": os.environ["PATH"], "URL": url, "PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [(name, ran, waited) for name, ran, waited in json.loads(done.stdout)]


def measure(server: PostgresServer | MariaDbServer) -> None:
    run(server.url())  # this compiles the modules, and fills the file cache
    rounds = [run(server.url()) for _ in range(ROUNDS)]
    stages = list(zip(*rounds, strict=True))
    computes = [statistics.median(ran for _, ran, _ in stage) * 1000 for stage in stages]
    waits = [statistics.median(waited for _, _, waited in stage) * 1000 for stage in stages]
    with FaultyProxy("127.0.0.1", server.port) as proxy:
        url = server.url(port=proxy.port)
        plain = statistics.median(run(url)[-1][2] for _ in range(5))
        proxy.delay(HELD)
        held = statistics.median(run(url)[-1][2] for _ in range(5))
    # The proxy's own handshake takes no round trip, the server's takes one more.
    trips = 1 + (held - plain) / (2 * HELD)
    print(f"\n{server.scheme + ' (ms)':22}{'computes':>10}{'waits':>8}")
    for (name, _, _), compute, wait in zip(rounds[0], computes, waits, strict=True):
        print(f"{name:22}{compute:10.1f}{wait:8.1f}")
    share = 100 * sum(waits) / (sum(waits) + sum(computes))
    print(f"{'together':22}{sum(computes):10.1f}{sum(waits):8.1f}, {share:.0f} % of all")
    print(f"connecting takes {trips:.1f} round trips; at 0.5 ms each that is {trips / 2:.1f} ms more to wait")


def main() -> None:
    for server in (PostgresServer(), MariaDbServer()):
        with server:
            measure(server)


if __name__ == "__main__":
    main()
