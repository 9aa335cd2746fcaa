"""Host names of the test's own, for processes that it starts: they can change, as DNS does. For root on Linux."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

# A mount namespace in which these two files replace those of the machine; no name server is asked.
_SCRIPT = """
mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/nsswitch.conf" /etc/nsswitch.conf && exec "$@"
"""


class Names:
    """A command with `prefix` in front of it sees the names given to `point`, even when they change."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="names-")
        folder = self._folder.name
        Path(folder, "nsswitch.conf").write_text("hosts: files\npasswd: files\ngroup: files\n")
        self.prefix = ("unshare", "--mount", "--propagation", "private", "sh", "-c", _SCRIPT, folder)
        self.point({})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def point(self, addresses: Mapping[str, str]) -> None:
        """From now on these names lead to these addresses, and no others exist but localhost."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items()), ""]
        # Written in place: the mount keeps the file, not its name.
        Path(self._folder.name, "hosts").write_text("\n".join(lines))
