"""Servers that never stop: given up in time, and before they fill the function's memory."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.faults.fuzz.conftest import Target
from tests.faults.fuzz.nasties import my, pg, pg_error
from tests.faults.fuzz.verdict import SLACK

MOST = 100
"""Megabytes by which a function may grow. It was 1,300 once; the smallest function has 128 in all."""

# In a process of its own, whose memory nothing else has used before.
PROGRAM = """
import json, resource, sys, time
from lambda_pool.api import core_of
import lambda_pool
from tests.support.core import acquire
from tests.support.invoked import invoked

url, stage, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
grown = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
pool = lambda_pool.Pool(
    url, observers=(), connect_timeout=seconds, timeout=seconds, name="flooded",
    ping_after=0.0 if stage == "ping" else 60.0, ping_timeout=seconds
)
said, isolation = "", "set session transaction isolation level read committed"
if stage == "login":
    core_of(pool).connector.engine.load()
else:
    pool.warm(strict=True)
if stage in {"commit", "settings"}:
    lease = pool.connection()
    if stage == "commit":
        end = time.monotonic() + seconds
        running = invoked(lambda: int((end - time.monotonic()) * 1000), reserve=0.0)
        running.__enter__()
    lease.__enter__().cursor().execute(isolation if stage == "settings" else "insert into fuzz values (1)")
before, start = grown(), time.monotonic()
try:
    if stage in {"commit", "settings"}:
        lease.__exit__(None, None, None)
    elif stage == "login":
        pool.connection().__enter__()
    else:
        acquire(pool)
except lambda_pool.LambdaPoolError as error:
    said = type(error).__name__
print(json.dumps({"grown": grown() - before, "seconds": time.monotonic() - start, "said": said}))
"""

_IN = pg("R", struct.pack("!i", 0))
_BLOCK = 1 << 20
_COLUMN = b"\3def\0\0\0\1a\1a\x0c\x2d\0\4\0\0\0\xfd\0\0\0\0\0"


def _parameters(number: int) -> bytes:
    return b"".join(pg("S", b"p%d_%d\0%s\0" % (number, each, b"x" * 25_000)) for each in range(40))


def _mysql_rows(number: int) -> bytes:
    # Numbered from 4 on, again and again.
    return b"".join(my(each + 4, b"\x20" + b"x" * 32) for each in range(256)) * 16


def _filler(number: int) -> bytes:
    return b"x" * _BLOCK


_NOTICE = pg_error(b"x" * 20_000, kind="N")
_ROWS = pg("T", b"\0\1a\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0))
_ROW = pg("D", b"\0\1\0\0\0\x20" + b"x" * 32)
PG_FLOODS: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "parameters": (b"", _parameters),
    "notices": (b"", lambda number: _NOTICE * 50),
    "one long error": (pg("E", b"S", 2**31 - 1), _filler),
    "a notice of 400 MB": (pg("N", b"S", 400 << 20), _filler),
    "a row of 400 MB": (_ROWS + pg("D", b"\0\1", 400 << 20), _filler),
    "rows": (_ROWS, lambda number: _ROW * 5000),
    "notifications": (b"", lambda number: pg("A", struct.pack("!i", 1) + b"channel\0payload\0") * 5000),
    "results": (b"", lambda number: pg("C", b"COMMIT\0") * 5000),
}
MY_FLOODS: dict[str, tuple[bytes, Callable[[int], bytes]]] = {
    "packets of 16 MB": (b"", lambda number: my(number + 1, bytes(0xFFFFFF))),
    "rows": (my(1, b"\1") + my(2, _COLUMN) + my(3, b"\xfe\0\0\2\0"), _mysql_rows),
}


def flooded(target: Target, stage: str, seconds: float) -> dict[str, object]:
    url = target.server.url(host="127.0.0.1", port=target.front.port, tls=False, sslmode="disable")
    command = [sys.executable, "-c", PROGRAM, url, stage, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert target.secret not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _answers(target: Target, stage: str) -> tuple[bytes, ...]:
    """What comes before the flood."""
    dialogue = target.dialogue
    if stage == "login":
        return ()
    if stage == "ping":
        return dialogue.login
    # A SET begins no transaction; the answer to COMMIT says that there is none.
    return (*dialogue.login, *(dialogue.commit if stage == "settings" else dialogue.statement))


FLOODS = [
    *(("postgresql", "ping", name) for name in PG_FLOODS),
    *(("postgresql", "login", name) for name in ("parameters", "notices", "a notice of 400 MB", "notifications")),
    # Which psycopg reads, in bounded time; its memory, only the network bounds.
    *(("postgresql", "commit", name) for name in ("rows", "results")),
    *(("mysql", stage, "packets of 16 MB") for stage in ("login", "ping", "commit", "settings")),
    ("mysql", "settings", "rows"),
]


@pytest.mark.sampled(4, "a second a case")
@pytest.mark.parametrize(("target", "stage", "name"), FLOODS, indirect=["target"], ids=lambda value: value)
def test_a_flood(target: Target, stage: str, name: str) -> None:
    first, endless = (MY_FLOODS if target.mysql else PG_FLOODS)[name]
    answers = _answers(target, stage)
    if stage == "login":
        first = _IN + first if not target.mysql else b""
    if stage == "login" and target.mysql:
        script = target.script(b"", then="flood", endless=lambda number: my(number, bytes(0xFFFFFF)))
    else:
        script = target.script(*answers, first, then="flood", endless=endless)
    target.front.play(*[script] * (50 if stage == "login" else 1))
    seconds = 0.6
    found = flooded(target, stage, seconds)
    assert isinstance(found["grown"], int)
    assert found["grown"] < MOST or (stage == "commit" and not target.mysql)
    assert isinstance(found["seconds"], float)
    assert found["seconds"] < seconds + 0.5 + SLACK
    # Nothing counts what is sent unasked, so only the time limit may end it, with no time left for another connection.
    unasked = ("", "ConnectError") if name in {"notices", "notifications"} else ("",)
    assert found["said"] in {"login": ("ConnectError",), "commit": ("CommitUncertain",)}.get(stage, unasked)
