"""A network namespace in which Lambda environments run, joined to the servers by a virtual cable that can be cut.

Whatever is cut there is lost without a word, as when an environment or a server vanishes: no FIN, no RST, no ICMP.
Linux only, and only for root.
"""

import subprocess
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "database.test"
"""The servers' name inside the namespace; a certificate can carry it."""

# The rule that delivers to this machine itself is moved behind ours, so that incoming packets are dropped too.
_DROP, _LOCAL = "5", "100"
# Here `ip netns exec` looks for files that replace those in /etc.
_FOLDER = Path("/etc/netns")


class Namespace:
    """A command with `prefix` in front of it runs inside.

    `address` is that of the inside, for calls to it and from it. `server_address` is that of the outside. Both are in
    `network`.
    """

    def __init__(self) -> None:
        # A network of sixteen addresses for each, from a range that nobody uses on the internet.
        number = _claim()
        self._base = f"10.213.{number >> 4}."
        self._last = (number & 15) << 4
        self.network = f"{self._base}{self._last}/28"
        self.server_address = self._next()
        self.address = ""
        self.name = _name(number)
        self.prefix = ("ip", "netns", "exec", self.name)
        self._outside = f"lo{number}"
        self._inside = f"li{number}"
        self._rules: list[tuple[str, ...]] = []

    def _next(self) -> str:
        self._last += 1
        return f"{self._base}{self._last}"

    def __enter__(self) -> Self:
        hosts = _FOLDER / self.name / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self.server_address} {HOST}\n")
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _build(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._outside, "type", "veth", "peer", "name", self._inside, "netns", self.name)
        _ip("address", "add", f"{self.server_address}/28", "dev", self._outside)
        _ip("link", "set", self._outside, "up")
        self._ip("link", "set", self._inside, "up")
        self.move()
        self._ip("link", "set", "lo", "up")
        self._ip("rule", "add", "pref", _LOCAL, "lookup", "local")
        self._ip("rule", "del", "pref", "0")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The cable first: the kernel removes a namespace later, and the next owner of the number needs its name.
        for parts in (("link", "del", self._outside), ("netns", "del", self.name)):
            subprocess.run(["ip", *parts], capture_output=True, check=False)
        folder = _FOLDER / self.name
        (folder / "hosts").unlink(missing_ok=True)
        folder.rmdir()

    def _ip(self, *arguments: str) -> None:
        _ip("-n", self.name, *arguments)

    def move(self) -> None:
        """Take another address (there are thirteen): existing connections keep theirs, new ones get the new one."""
        self.address = self._next()
        self._ip("address", "add", f"{self.address}/28", "dev", self._inside)
        self._ip("route", "replace", self.network, "dev", self._inside, "src", self.address)

    def vanish(self, port: int | None = None) -> None:
        """Lose all packets between `address` and outside; with `port`, only those of connections made from there."""
        there, back = ["from", self.address], ["to", self.address]
        if port is not None:
            there += ["to", self.server_address, "ipproto", "tcp", "sport", str(port)]
            back += ["from", self.server_address, "ipproto", "tcp", "dport", str(port)]
        self._drop(*there)
        self._drop(*back)

    def lose(self, server_port: int) -> None:
        """Lose all packets to and from this port of the outside, for all connections."""
        self._drop("to", self.server_address, "ipproto", "tcp", "dport", str(server_port))
        self._drop("from", self.server_address, "ipproto", "tcp", "sport", str(server_port))

    def _drop(self, *packets: str) -> None:
        self._ip("rule", "add", "pref", _DROP, *packets, "blackhole")
        self._rules.append(packets)

    def heal(self) -> None:
        """Carry everything again. The kernel then resends what was lost, even an old FIN."""
        while self._rules:
            self._ip("rule", "del", "pref", _DROP, *self._rules.pop(), "blackhole")


def _name(number: int) -> str:
    return f"lambda-{number}"


def _claim() -> int:
    """A number that no namespace of any process has: its folder can be made only once."""
    _FOLDER.mkdir(exist_ok=True)
    for number in range(1 << 12):
        with suppress(FileExistsError):
            (_FOLDER / _name(number)).mkdir()
            return number
    raise RuntimeError(f"{_FOLDER} is full of what other runs left behind: remove its folders {_name(0)} and so on")


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()} (this needs root, and package iproute2)")
