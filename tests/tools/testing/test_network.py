"""The faulty proxy, against a server that echoes."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lambda_pool.testing import FaultyProxy


@pytest.fixture
def echo() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(client: socket.socket) -> None:
        with suppress(OSError), client:
            while data := client.recv(100):
                client.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo: int) -> Iterator[FaultyProxy]:
    with FaultyProxy("127.0.0.1", echo) as made:
        yield made


def connect(proxy: FaultyProxy, timeout: float = 5.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout)


def ask(client: socket.socket, text: bytes) -> bytes:
    client.sendall(text)
    return client.recv(100)


def test_carries_bytes_and_counts(proxy: FaultyProxy) -> None:
    with connect(proxy) as one, connect(proxy) as two:
        assert ask(one, b"a") == b"a"
        assert ask(two, b"b") == b"b"
    assert proxy.accepted == 2


def test_black_hole_for_existing_only_and_healing(proxy: FaultyProxy) -> None:
    with connect(proxy, 0.2) as old:
        assert ask(old, b"a") == b"a"
        proxy.black_hole(new=False)
        with pytest.raises(TimeoutError):
            ask(old, b"lost")
        with connect(proxy) as new:
            assert ask(new, b"b") == b"b"
        proxy.heal()
        assert ask(old, b"c") == b"c"


def test_one_direction_is_swallowed(proxy: FaultyProxy) -> None:
    with connect(proxy, 0.2) as client:
        assert ask(client, b"a") == b"a"
        proxy.swallow("to_client")
        with pytest.raises(TimeoutError):
            ask(client, b"b")


def test_swallowed_after_so_many_bytes(proxy: FaultyProxy) -> None:
    with connect(proxy, 0.2) as client:
        proxy.swallow("to_client", after=2)
        assert ask(client, b"hello") == b"he"
        with pytest.raises(TimeoutError):
            ask(client, b"more")
        proxy.heal()
        assert ask(client, b"a") == b"a"


def test_halves_arrive_apart(proxy: FaultyProxy) -> None:
    with connect(proxy) as client:
        proxy.halve("to_client", pause=0.1)
        assert ask(client, b"hello") == b"hel"
        assert client.recv(100) == b"lo"


def test_the_news_of_an_end_waits_in_a_black_hole(proxy: FaultyProxy) -> None:
    with connect(proxy, 0.2) as client:
        assert ask(client, b"a") == b"a"
        proxy.black_hole()
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(TimeoutError):
            client.recv(1)
        proxy.heal()
        client.settimeout(5)
        assert client.recv(1) == b""


def test_a_reset_by_the_server_reaches_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with FaultyProxy("127.0.0.1", listener.getsockname()[1]) as proxy, connect(proxy) as client:
            server, _ = listener.accept()
            server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server.close()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_connections_that_ended_are_closed_and_forgotten(proxy: FaultyProxy) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(20):
        with connect(proxy) as client:
            assert ask(client, b"a") == b"a"
    until = time.monotonic() + 5
    while descriptors() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert descriptors() == before


def test_delay(proxy: FaultyProxy) -> None:
    proxy.delay(0.3)
    with connect(proxy, 0.1) as client, pytest.raises(TimeoutError):
        ask(client, b"a")


@pytest.mark.parametrize("after", [0, 2])
def test_cut_after_so_many_bytes(proxy: FaultyProxy, after: int) -> None:
    with connect(proxy) as client:
        assert ask(client, b"a") == b"a"
        proxy.cut(after=after, direction="to_client")
        client.sendall(b"hello")
        received = b""
        with suppress(ConnectionResetError):
            while piece := client.recv(100):
                received += piece
        assert received == b"hello"[:after]


def test_a_direction_that_is_none_is_refused(proxy: FaultyProxy) -> None:
    with pytest.raises(ValueError, match=r"direction='up' is not valid: it must be 'to_server' or 'to_client'"):
        proxy.cut(after=0, direction="up")  # type: ignore[arg-type]
    for strike in (proxy.swallow, proxy.halve):
        with pytest.raises(ValueError, match="direction='up' is not valid"):
            strike("up")  # type: ignore[arg-type]


def test_it_leads_elsewhere(proxy: FaultyProxy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, connect(proxy) as old:
        assert ask(old, b"a") == b"a"
        proxy.lead_to(other.getsockname()[1])
        with connect(proxy) as new, other.accept()[0] as accepted:
            accepted.sendall(b"other")
            assert new.recv(100) == b"other"
        assert ask(old, b"b") == b"b"


def test_reset_and_close(proxy: FaultyProxy) -> None:
    with connect(proxy) as client:
        assert ask(client, b"a") == b"a"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(100)
    with connect(proxy) as client:
        assert ask(client, b"a") == b"a"
        proxy.close()
        assert client.recv(100) == b""


def test_refuse_and_listen_again(proxy: FaultyProxy) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.listen()
    with connect(proxy) as client:
        assert ask(client, b"a") == b"a"


def test_a_client_that_is_gone_before_it_is_let_in_stops_nobody_else(echo: int) -> None:
    with FaultyProxy("127.0.0.1", echo, listen=lambda port: lambda data: None) as proxy:
        for _ in range(40):
            with connect(proxy) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with connect(proxy) as client:
            assert ask(client, b"a") == b"a"


def test_a_client_that_comes_while_the_proxy_ends_is_closed(echo: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, left = threading.Event(), threading.Event()
    genuine = socket.create_connection

    def create_connection(address: tuple[str, int], timeout: float) -> socket.socket:
        if address[1] == echo:
            asked.set()
            assert left.wait(10)
        return genuine(address, timeout)

    monkeypatch.setattr(socket, "create_connection", create_connection)
    with FaultyProxy("127.0.0.1", echo) as proxy:
        client = connect(proxy)
        assert asked.wait(10)
    left.set()
    with client:
        assert client.recv(1) == b""


def test_an_unreachable_server_closes_the_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with FaultyProxy("127.0.0.1", port) as proxy, connect(proxy) as client:
        assert client.recv(1) == b""
