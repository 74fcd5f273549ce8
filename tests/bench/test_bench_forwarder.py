from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from snapshotter.bench.children.forwarder import Forwarder, Rate

_PIECE = 3 << 20


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    """Answers ``n`` for each line it gets with ``n`` bytes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(b"x" * int(line))

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def forward(server: tuple[str, int]) -> Iterator[Callable[[float], Forwarder]]:
    started: list[Forwarder] = []

    def start(rtt: float) -> Forwarder:
        started.append(Forwarder(server, rtt))
        return started[-1]

    yield start
    for forwarder in started:
        forwarder.close()


def connect(forwarder: Forwarder) -> socket.socket:
    host, port = forwarder.address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def ask(connection: socket.socket, count: int) -> bytes:
    connection.sendall(b"%d\n" % count)
    data = b""
    while len(data) < count:
        data += connection.recv(1 << 20)
    return data


def test_what_is_asked_and_answered_passes_whole(forward: Callable[[float], Forwarder]) -> None:
    forwarder = forward(0)
    with connect(forwarder) as connection:
        assert ask(connection, _PIECE) == b"x" * _PIECE
    assert forwarder.stats() == {
        "connections": 1,
        "sent_bytes": len(b"%d\n" % _PIECE),
        "answered_bytes": _PIECE,
        "held": 0,
    }


def test_with_a_round_trip_everything_sent_is_held(forward: Callable[[float], Forwarder]) -> None:
    forwarder = forward(0.001)
    with connect(forwarder) as connection:
        for _ in range(3):
            ask(connection, 10)
    assert forwarder.stats()["held"] == 3


def test_connections_are_forwarded_at_the_same_time(
    forward: Callable[[float], Forwarder],
) -> None:
    forwarder = forward(0)
    connections = [connect(forwarder) for _ in range(5)]
    for connection in connections:
        assert ask(connection, 100) == b"x" * 100
    for connection in connections:
        connection.close()
    assert forwarder.stats()["connections"] == 5


def test_the_end_of_what_a_client_sends_reaches_the_server(
    forward: Callable[[float], Forwarder],
) -> None:
    with connect(forward(0.001)) as connection:
        connection.sendall(b"5\n")
        connection.shutdown(socket.SHUT_WR)
        with closing(connection.makefile("rb")) as answer:
            assert answer.read() == b"xxxxx"


def test_a_closed_forwarder_cuts_its_connections(forward: Callable[[float], Forwarder]) -> None:
    forwarder = forward(0)
    with connect(forwarder) as connection:
        ask(connection, 10)
        forwarder.close()
        assert connection.recv(1) == b""


def test_a_rate_delays_by_what_has_gone_through() -> None:
    now = [100.0]
    rate = Rate(1000, clock=lambda: now[0])
    assert rate.delay(500) == pytest.approx(0.5)
    assert rate.delay(500) == pytest.approx(1.0)  # nobody has waited yet
    now[0] += 1.0
    assert rate.delay(100) == pytest.approx(0.1)


def test_a_rate_saves_nothing_up_while_nobody_sends() -> None:
    now = [100.0]
    rate = Rate(1000, clock=lambda: now[0])
    rate.delay(1)
    now[0] += 50
    assert rate.delay(1000) == pytest.approx(1.0)


def test_no_rate_is_no_delay() -> None:
    assert Rate(0).delay(1 << 40) == 0
