"""The server with real clients of gRPC, and with some that are none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from rpc_client import FIELDS

from snapshotter.rpc import frames
from snapshotter.rpc.server import Call, Handler, Server
from snapshotter.sockets import listen_unix

BIG = bytes(range(256)) * 4096


class Service:
    """What the handlers below do, and what they wait for."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = threading.Event()
        """Somebody asks for what comes later."""
        self.pool = ThreadPoolExecutor(4)

    def echo(self, message: bytes, call: Call) -> None:
        call.answer(message)

    def later(self, message: bytes, call: Call) -> None:
        self.asked.set()
        self.pool.submit(self._answer, message, call)

    def _answer(self, message: bytes, call: Call) -> None:
        self.gate.wait(60)
        call.answer(message)

    def many(self, message: bytes, call: Call) -> None:
        call.answer_all([BIG] * int(message))

    def refuse(self, message: bytes, call: Call) -> None:
        call.refuse(grpc.StatusCode.NOT_FOUND.value[0], "nicht da: ü\n")


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.gate.set()
    service.pool.shutdown()


@pytest.fixture
def address(tmp_path: Path) -> Path:
    return tmp_path / "rpc.sock"


@pytest.fixture
def server(address: Path, service: Service) -> Iterator[Server]:
    handlers: dict[str, Handler] = {
        "/s/Echo": service.echo,
        "/s/Later": service.later,
        "/s/Many": service.many,
        "/s/Refuse": service.refuse,
    }
    server = Server(listen_unix(address), handlers)
    yield server
    service.gate.set()
    server.stop(5)


@pytest.fixture
def channel(server: Server, address: Path) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"unix:{address}") as channel:
        yield channel


def call(channel: grpc.Channel, name: str) -> Callable[..., bytes]:
    return channel.unary_unary(f"/s/{name}")


@pytest.mark.parametrize("size", [0, 1, 16_000, 17_000, 1_000_000, 4 << 20])
def test_messages_of_any_size_go_there_and_back(channel: grpc.Channel, size: int) -> None:
    message = (BIG * 5)[:size]
    assert call(channel, "Echo")(message, timeout=30) == message


def test_calls_of_many_clients_are_not_mixed_up(server: Server, address: Path) -> None:
    def client(number: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"unix:{address}", options=options) as channel:
            echo = call(channel, "Echo")
            for step in range(100):
                message = f"{number}-{step}".encode()
                metadata = [("containerd-namespace", f"n{step % 7}"), (f"x-{number}", "y" * step)]
                assert echo(message, metadata=metadata, timeout=30) == message

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(client, range(16)))


def test_who_waits_holds_up_nobody(channel: grpc.Channel, service: Service) -> None:
    waiting = channel.unary_unary("/s/Later").future(b"later", timeout=30)
    assert call(channel, "Echo")(b"now", timeout=30) == b"now"
    assert not waiting.done()
    service.gate.set()
    assert waiting.result(30) == b"later"


def test_many_answers_come_whole_and_in_order(channel: grpc.Channel) -> None:
    answers = channel.unary_stream("/s/Many")(b"20", timeout=60)
    assert [answer == BIG for answer in answers] == [True] * 20
    assert list(channel.unary_stream("/s/Many")(b"0", timeout=60)) == []


def test_a_refusal_arrives_with_code_and_text(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, "Refuse")(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    assert refused.value.details() == "nicht da: ü\n"  # type: ignore[attr-defined]


def test_what_is_not_served_is_unimplemented(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        call(channel, "Absent")(b"", timeout=30)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]


def test_a_call_given_up_by_its_client_leaves_the_connection_as_it_was(
    channel: grpc.Channel, service: Service
) -> None:
    waiting = channel.unary_unary("/s/Later").future(b"later", timeout=0.2)
    assert isinstance(waiting.exception(30), grpc.RpcError)
    service.gate.set()
    assert call(channel, "Echo")(b"x", timeout=30) == b"x"


def test_deadlines_are_kept_by_clients_and_calls_given_up_take_no_room(
    channel: grpc.Channel, service: Service
) -> None:
    begun = time.monotonic()
    later = channel.unary_unary("/s/Later")
    for _ in range(3):  # more in all than may be under way
        waiting = [later.future(b"later", timeout=0.5) for _ in range(400)]
        failed = {one.exception(30).code() for one in waiting}  # type: ignore[attr-defined]
        assert failed == {grpc.StatusCode.DEADLINE_EXCEEDED}
    assert time.monotonic() - begun >= 1.5
    assert call(channel, "Echo")(b"x", timeout=30) == b"x"


def test_a_client_that_breaks_the_protocol_or_leaves_disturbs_nobody(
    channel: grpc.Channel, address: Path
) -> None:
    for sent in (b"GET / HTTP/1.1\r\n\r\n", frames.PREFACE + b"\xff" * 100, b""):
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.connect(str(address))
            stranger.sendall(sent)
            if sent:
                stranger.settimeout(30)
                while stranger.recv(65536):
                    pass  # until it is closed
        assert call(channel, "Echo")(b"x", timeout=30) == b"x"


def test_a_client_that_does_not_read_holds_up_nobody(channel: grpc.Channel, address: Path) -> None:
    from hpack import Encoder

    block = Encoder().encode([(n, b"/s/Many" if n == b":path" else v) for n, v in FIELDS])
    window = frames.frame(frames.WINDOW_UPDATE, 0, 0, b"\x70\0\0\0")
    wide = frames.frame(
        frames.SETTINGS, 0, 0, frames.setting(frames.INITIAL_WINDOW_SIZE, 0x70000000)
    )
    asked = frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)
    asked += frames.frame(frames.DATA, frames.END_STREAM, 1, frames.message(b"20"))
    with socket.socket(socket.AF_UNIX) as lazy:
        lazy.connect(str(address))
        lazy.sendall(frames.PREFACE + wide + window + asked)
        for _ in range(20):
            assert call(channel, "Echo")(b"x", timeout=30) == b"x"
        lazy.settimeout(30)
        received = 0
        while received < 20 * len(BIG):
            received += len(lazy.recv(1 << 20))


def test_a_stop_waits_for_calls_under_way_and_takes_no_more(
    server: Server, address: Path, channel: grpc.Channel, service: Service
) -> None:
    waiting = channel.unary_unary("/s/Later").future(b"later", timeout=60)
    assert service.asked.wait(30)  # an answer to another call says nothing of this one
    stopping = threading.Thread(target=server.stop, args=(30,))
    stopping.start()
    time.sleep(0.2)
    assert stopping.is_alive()
    service.gate.set()
    assert waiting.result(30) == b"later"
    stopping.join(30)
    assert not stopping.is_alive()
    with pytest.raises(OSError, match="refused"), socket.socket(socket.AF_UNIX) as late:
        late.connect(str(address))


def test_work_for_the_thread_that_serves_is_done_there_and_at_once_after_the_end(
    server: Server,
) -> None:
    threads: list[threading.Thread] = []
    done = threading.Event()

    def work() -> None:
        threads.append(threading.current_thread())
        done.set()

    def fail() -> None:
        raise RuntimeError("it disturbs nobody")

    server.soon(fail)
    server.soon(work)
    assert done.wait(30)
    server.stop(5)
    server.soon(work)
    assert [thread.name for thread in threads] == [
        "modelpack-rpc",
        threading.current_thread().name,
    ]


def test_an_answer_after_the_end_goes_nowhere(
    server: Server, channel: grpc.Channel, service: Service
) -> None:
    waiting = channel.unary_unary("/s/Later").future(b"later", timeout=60)
    assert service.asked.wait(30)  # an answer to another call says nothing of this one
    server.stop(0)
    service.gate.set()
    service.pool.shutdown()
    assert isinstance(waiting.exception(30), grpc.RpcError)
