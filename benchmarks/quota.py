"""Gives a process a share of one core, like a small function: by a control group, or by stopping it in turns."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PERIOD_US = 20_000
"""Lambda's own scheduling period, in microseconds."""
_ROOT = Path("/sys/fs/cgroup")


def _group() -> tuple[Path, dict[str, str]] | None:
    """A new control group and what to write into it, depending on the system; None if making one is not allowed."""
    name = f"benchmark-{os.getpid()}"
    for folder, files in (
        (_ROOT / "cpu" / name, ("cpu.cfs_period_us", "cpu.cfs_quota_us")),
        (_ROOT / name, ("cpu.max",)),
    ):
        with contextlib.suppress(OSError):
            folder.mkdir()
            if all((folder / file).exists() for file in files):
                return folder, dict.fromkeys(files, "")
            folder.rmdir()
    return None


class Quota:
    """`share` of one core for each process started with `prefix`, while the context lasts.

    `kind` says how: "control group", or "stop and go", which `watch` then does from outside.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.kind = "stop and go"
        self.prefix: Sequence[str] = ()
        self._folder: Path | None = None

    def __enter__(self) -> "Quota":
        found = _group()
        if found is None:
            return self
        self._folder, files = found
        quota = int(PERIOD_US * self.share)
        try:
            for file in files:
                value = {"cpu.cfs_period_us": PERIOD_US, "cpu.cfs_quota_us": quota}.get(file, f"{quota} {PERIOD_US}")
                (self._folder / file).write_text(str(value))
        except OSError:
            self._remove()
            return self
        self.kind = "control group"
        self.prefix = ("/bin/sh", "-c", f'echo $$ > {self._folder}/cgroup.procs; exec "$@"', "sh")
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _remove(self) -> None:
        folder, self._folder = self._folder, None
        if folder is None:
            return
        for _ in range(100):
            with contextlib.suppress(OSError):
                folder.rmdir()
                return
            time.sleep(0.02)  # its last process has not completely ended yet

    @contextlib.contextmanager
    def watch(self, pid: int) -> Iterator[None]:
        """Stop and continue the process in turns, if there is no control group."""
        if self.kind == "control group":
            yield
            return
        done = threading.Event()

        def alternate() -> None:
            with contextlib.suppress(ProcessLookupError):
                while not done.is_set():
                    os.kill(pid, signal.SIGCONT)
                    time.sleep(PERIOD_US / 1e6 * self.share)
                    os.kill(pid, signal.SIGSTOP)
                    done.wait(PERIOD_US / 1e6 * (1 - self.share))

        thread = threading.Thread(target=alternate, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
