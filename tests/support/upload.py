"""A file for LOAD DATA LOCAL INFILE."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread


@contextmanager
def endless(folder: Path) -> Iterator[Path]:
    """A file that has no end: it holds the number 1, over and over."""
    path = folder / "endless"
    os.mkfifo(path)

    def feed() -> None:
        with suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
            while True:
                file.write(b"1\n" * 4096)

    thread = Thread(target=feed, daemon=True)
    thread.start()
    yield path
    thread.join(5)
