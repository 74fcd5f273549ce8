"""The forwarder, in front of a service that has what CRI's does not: streams, odd metadata."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from proto.cri.runtime.v1 import api_pb2 as api
from snapshotter.images.cri_proxy import serve
from snapshotter.images.errors import ImageError

PULL = "/runtime.v1.ImageService/PullImage"


class Backend(grpc.GenericRpcHandler):
    """Every method by its last name; what it was called with is kept."""

    def __init__(self) -> None:
        self.metadata: dict[str, str | bytes] = {}
        self.remaining: float | None = None
        self.cancelled = threading.Event()
        self.waiting = threading.Event()
        self.methods: list[str] = []

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        self.methods.append(details.method)
        handler = getattr(self, details.method.rpartition("/")[2].lower(), None)
        return grpc.stream_stream_rpc_method_handler(handler) if handler else None

    def pullimage(
        self, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> Iterator[bytes]:
        self.metadata = dict(context.invocation_metadata())
        self.remaining = context.time_remaining()
        context.send_initial_metadata((("begin", "yes"),))
        context.set_trailing_metadata((("end-bin", b"\x00\xff"),))
        yield from requests

    def fail(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05"),))
        yield b"first"
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no space")

    def echo(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for request in requests:
            yield request.upper()

    def hang(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        context.add_callback(self.cancelled.set)
        self.waiting.set()
        self.cancelled.wait(30)
        yield b""


class Watcher:
    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.instead: bytes | None = None
        self.broken = False

    def watches(self, method: str) -> bool:
        return method.startswith("/runtime.v1.")

    def answer(self, method: str, request: bytes) -> bytes | None:
        if self.broken:
            raise RuntimeError("broken")
        return self.instead

    def succeeded(self, method: str, request: bytes) -> None:
        self.seen.append((method, request))
        if self.broken:
            raise RuntimeError("broken")


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    backend = Backend()
    server = grpc.server(
        ThreadPoolExecutor(8),
        handlers=[backend],
        options=[("grpc.max_receive_message_length", -1)],
    )
    server.add_insecure_port(f"unix:{tmp_path}/containerd.sock")
    server.start()
    yield backend
    server.stop(None).wait()


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def channel(tmp_path: Path, backend: Backend, watcher: Watcher) -> Iterator[grpc.Channel]:
    proxy = serve(tmp_path / "cri.sock", tmp_path / "containerd.sock", watcher)
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(f"unix:{tmp_path}/cri.sock", options=options) as channel:
        yield channel
    proxy.stop()
    assert not (tmp_path / "cri.sock").exists()


def test_bytes_metadata_and_deadline_go_through(channel: grpc.Channel, backend: Backend) -> None:
    request = b"\x12\x00\xff no message of anybody"
    answer, call = channel.unary_unary(PULL).with_call(
        request, timeout=50, metadata=(("traceparent", "00-1"), ("binary-bin", b"\xff"))
    )
    assert answer == request
    assert backend.metadata["traceparent"] == "00-1"
    assert backend.metadata["binary-bin"] == b"\xff"
    assert backend.remaining is not None
    # Between 10 and 100 s grpc-timeout counts tenths of a second, rounded up from the next
    # millisecond (gRPC core, transport/timeout_encoding.cc): 50.1 from here, and what is left
    # of that is at most 50.2 from the proxy.
    assert 40 < backend.remaining <= 50.2
    assert ("begin", "yes") in [tuple(pair) for pair in call.initial_metadata()]
    assert ("end-bin", b"\x00\xff") in [tuple(pair) for pair in call.trailing_metadata()]


def test_messages_may_be_large(channel: grpc.Channel) -> None:
    large = bytes(12 << 20)
    assert len(channel.unary_unary("/any.Service/Echo")(large)) == len(large)


def test_errors_keep_code_text_and_details_and_what_came_before(channel: grpc.Channel) -> None:
    answers = channel.unary_stream("/any.Service/Fail")(b"")
    assert next(answers) == b"first"
    with pytest.raises(grpc.RpcError) as failed:
        next(answers)
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failed.value.details() == "no space"
    assert ("grpc-status-details-bin", b"\x08\x05") in [
        tuple(pair) for pair in failed.value.trailing_metadata()
    ]


def test_a_method_nobody_knows_is_containerds_to_refuse(
    channel: grpc.Channel, backend: Backend
) -> None:
    with pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/runtime.v2.ImageService/Whatever")(b"")
    assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert backend.methods == ["/runtime.v2.ImageService/Whatever"]


def test_streams_go_both_ways_message_by_message(channel: grpc.Channel) -> None:
    ready = threading.Semaphore(1)

    def requests() -> Iterator[bytes]:
        for word in (b"one", b"two", b"three"):
            ready.acquire()
            yield word

    answers = []
    for answer in channel.stream_stream("/any.Service/Echo")(requests()):
        answers.append(answer)
        ready.release()
    assert answers == [b"ONE", b"TWO", b"THREE"]


def test_a_call_that_is_cancelled_is_cancelled_behind(
    channel: grpc.Channel, backend: Backend
) -> None:
    call = channel.unary_unary("/any.Service/Hang").future(b"")
    assert backend.waiting.wait(30)
    call.cancel()
    assert backend.cancelled.wait(30)


def test_without_containerd_calls_fail_and_later_go_through(
    tmp_path: Path, watcher: Watcher
) -> None:
    proxy = serve(tmp_path / "cri.sock", tmp_path / "later.sock", watcher)
    with grpc.insecure_channel(f"unix:{tmp_path}/cri.sock") as channel:
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/any.Service/Echo")(b"x")
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        server = grpc.server(ThreadPoolExecutor(1), handlers=[Backend()])
        server.add_insecure_port(f"unix:{tmp_path}/later.sock")
        server.start()
        pause = threading.Event()
        for _ in range(1000):
            try:
                assert channel.unary_unary("/any.Service/Echo")(b"x") == b"X"
                break
            except grpc.RpcError:
                pause.wait(0.05)
        else:
            pytest.fail("it never came back")
        server.stop(None).wait()
    proxy.stop()


def test_what_is_watched_is_told_before_the_caller_has_its_answer(
    channel: grpc.Channel, watcher: Watcher
) -> None:
    request = api.PullImageRequest(image=api.ImageSpec(image="a")).SerializeToString()
    channel.unary_unary(PULL)(request)
    assert watcher.seen == [(PULL, request)]
    with pytest.raises(grpc.RpcError):
        channel.unary_unary("/runtime.v1.ImageService/Other")(b"")
    assert len(watcher.seen) == 1
    watcher.instead = b"ours"
    assert channel.unary_unary(PULL)(request) == b"ours"


def test_what_goes_wrong_in_watching_changes_nothing_and_quotes_nothing(
    channel: grpc.Channel, watcher: Watcher, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher.broken = True
    assert channel.unary_unary(PULL)(b"alice-password") == b"alice-password"
    told = capsys.readouterr().out
    assert "RuntimeError" in told
    assert "alice-password" not in told


def test_containerds_own_socket_is_refused(tmp_path: Path, watcher: Watcher) -> None:
    with pytest.raises(ImageError, match="containerd's own socket"):
        serve(tmp_path / "s", tmp_path / "s", watcher)
