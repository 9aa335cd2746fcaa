"""Ports of tests that run side by side: no process is given another's."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lambda_pool.testing import PostgresServer, ports
from lambda_pool.testing.ports import free_ports

ASK = "from lambda_pool.testing.ports import free_ports; print(*free_ports(50), flush=True); input()"


def test_none_twice() -> None:
    assert len(set(free_ports(50))) == 50


def test_processes_that_live_at_the_same_time_share_none() -> None:
    others = [
        subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    given = free_ports(50)
    for other in others:
        assert other.stdout is not None
        given += map(int, other.stdout.readline().split())
    assert len(set(given)) == 200
    for other in others:
        other.communicate("\n", timeout=30)


def test_a_forked_child_has_its_own() -> None:
    ours = free_ports(50)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, " ".join(map(str, free_ports(50))).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = [int(port) for port in pipe.read().split()]
    os.waitpid(child, 0)
    assert len({*ours, *theirs}) == 100


def test_none_that_the_system_gives_to_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert max(free_ports(50)) < lowest


def test_that_of_a_server_that_is_down_is_left_out() -> None:
    with PostgresServer(tls=False) as server:
        server.stop()
        given = {port for _ in range(2 * ports._PORTS_EACH) for port in free_ports(1)}
        assert given
        assert server.port not in given
    assert server.port not in ports.kept


def test_a_taken_one_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = ports._Claim()
    monkeypatch.setattr(ports, "_claims", [claim])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        claim.ports = iter([number, number, 0])
        [given] = free_ports(1)
    assert given != number


def test_where_nothing_else_is_left_the_system_chooses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    narrow = tmp_path / "range"
    narrow.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_SYSTEMS_OWN", narrow)
    monkeypatch.setattr(ports, "_claims", [])
    assert len(set(free_ports(10))) == 10
