"""Finding and ending the processes that a test tool started, and their descendants (Linux: reads /proc)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

# Its input ends without a line when the process that started it is gone, for whatever reason. By then, another process
# may have the guarded one's number, so the working directory is checked.
_GUARD = """
trap '' HUP INT TERM
read -r ended && exit
case $(readlink "/proc/$1/cwd") in "$3"|"$3"/*) ;; *) rm -rf "$4"; exit ;; esac
kill -s "$2" "$1"
kill -s CONT "$1"
left=100
while kill -0 "$1" && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
kill -s KILL "$1"
rm -rf "$4"
"""


class Guard:
    """Ends a process if this one ends first, by a signal such as from a time limit or a closed terminal."""

    def __init__(self, pid: int, how: signal.Signals, inside: Path, folder: Path) -> None:
        """how: the signal that ends it. inside: where it works. folder: what to remove after it."""
        arguments = [str(pid), how.name.removeprefix("SIG"), str(inside), str(folder)]
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", os.defpath)},  # none of the tests' secrets
            start_new_session=True,
        )

    def end(self) -> None:
        """The process has ended, and needs no guard any more."""
        self._shell.communicate(b"\n")


def listening_ports(root: int) -> set[int]:
    """The TCP ports on which a process or a descendant of it listens, in its own network namespace."""
    ports: set[int] = set()
    for pid in [root, *descendants(root)]:
        with contextlib.suppress(OSError):
            sockets = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir()}
            for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
                fields = line.split()
                # 0A is LISTEN; the local address is hexadecimal, address:port.
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                    ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports


def _status(pid: int) -> tuple[str, int] | None:
    """The state letter and the parent of a process, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command name, in parentheses, may hold spaces and parentheses itself: cut after the last one.
    state, parent = text.rpartition(")")[2].split()[:2]
    return state, int(parent)


def is_alive(pid: int) -> bool:
    """Whether the process, or any thread of it, still lives: only the last one to end closes its files."""
    status = _status(pid)
    if status is None or status[0] not in "ZX":
        return status is not None
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except OSError:
        return False


def all_pids() -> list[int]:
    """Every process id that is visible now."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def descendants(root: int) -> list[int]:
    """The children of a process, their children and so on; parents come before their children."""
    children: dict[int, list[int]] = {}
    for pid in all_pids():
        status = _status(pid)
        if status is not None and status[0] not in "ZX":
            children.setdefault(status[1], []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        born = children.get(queue.pop(0), [])
        found += born
        queue += born
    return found


def command_line(pid: int) -> list[str]:
    """The arguments a process was started with; empty when it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0")[:-1]]


def with_environment(entry: str) -> list[int]:
    """The processes of this user that were started with the environment entry `NAME=value`."""
    wanted = entry.encode()
    found = []
    for pid in all_pids():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def send(pids: list[int], signum: signal.Signals) -> None:
    """Send a signal to each process; one that is gone already is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)


def _is_stopped(pid: int) -> bool:
    """Whether no thread of the process can run: all stopped, or gone."""
    try:
        states = [
            (thread / "stat").read_text().rpartition(")")[2].split()[0]
            for thread in Path(f"/proc/{pid}/task").iterdir()
        ]
    except OSError:
        return not is_alive(pid)
    return all(state in "TtZX" for state in states)


def stop_family(root: int, timeout: float = 5.0) -> list[int]:
    """SIGSTOP a process and its descendants; returns them, parents first, once none of their threads runs.

    The signal takes effect some time after it was sent, and a child may be born meanwhile, so this looks again. Raises
    TimeoutError if a thread still runs after `timeout` seconds.
    """
    until = time.monotonic() + timeout
    while True:
        pids = [root, *descendants(root)]
        running = [pid for pid in pids if not _is_stopped(pid)]
        if not running:
            return pids
        if time.monotonic() >= until:
            raise TimeoutError(f"the processes {running} did not stop within {timeout} s")
        send(running, signal.SIGSTOP)
        time.sleep(0.001)


def wait_gone(pids: list[int], timeout: float) -> list[int]:
    """Wait until the processes have ended, at most `timeout` seconds; returns those still alive."""
    until = time.monotonic() + timeout
    while True:
        pids = [pid for pid in pids if is_alive(pid)]
        if not pids or time.monotonic() >= until:
            return pids
        time.sleep(0.005)
