"""The caller with servers of grpcio and of our own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from snapshotter.rpc.client import Caller
from snapshotter.rpc.errors import CallFailed, ConnectionFailed
from snapshotter.rpc.server import Call, Server
from snapshotter.sockets import listen_unix

METADATA = [("containerd-namespace", "tests")]


def _echo(message: bytes, context: grpc.ServicerContext) -> bytes:
    assert ("containerd-namespace", "tests") in [
        tuple(one) for one in context.invocation_metadata()
    ]
    return message


def _refuse(message: bytes, context: grpc.ServicerContext) -> bytes:
    context.abort(grpc.StatusCode.NOT_FOUND, "nicht da: ü %")
    return b""


@pytest.fixture(params=["grpcio", "our own"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "rpc.sock"
    if request.param == "grpcio":
        with ThreadPoolExecutor(2) as pool:
            server = grpc.server(pool)
            handlers = {
                name: grpc.unary_unary_rpc_method_handler(function)
                for name, function in (("Echo", _echo), ("Refuse", _refuse))
            }
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler("service", handlers),)
            )
            server.add_insecure_port(f"unix:{path}")
            server.start()
            yield str(path)
            server.stop(0).wait()
        return

    def echo(message: bytes, call: Call) -> None:
        call.answer(message)

    def refuse(message: bytes, call: Call) -> None:
        call.refuse(grpc.StatusCode.NOT_FOUND.value[0], "nicht da: ü %")

    ours = Server(listen_unix(path), {"/service/Echo": echo, "/service/Refuse": refuse})
    yield str(path)
    ours.stop(1)


@pytest.fixture
def caller(address: str) -> Iterator[Caller]:
    caller = Caller(address, METADATA, timeout=20)
    yield caller
    caller.close()


@pytest.mark.parametrize("size", [0, 1, 200, 16_000])
def test_a_message_comes_back_whole(caller: Caller, size: int) -> None:
    assert caller.call("/service/Echo", bytes(size)) == bytes(size)


def test_more_bytes_than_a_window_has_pass_in_many_calls(caller: Caller) -> None:
    for number in range(300):
        message = number.to_bytes(2, "big") * 500
        assert caller.call("/service/Echo", message) == message


def test_a_refusal_has_the_code_and_text_of_the_service(caller: Caller) -> None:
    with pytest.raises(CallFailed, match="nicht da: ü %") as refused:
        caller.call("/service/Refuse", b"")
    assert refused.value.code == 5
    assert caller.call("/service/Echo", b"on") == b"on"


def test_a_method_that_is_not_there_is_unimplemented(caller: Caller) -> None:
    with pytest.raises(CallFailed) as refused:
        caller.call("/service/Other", b"")
    assert refused.value.code == 12


def test_a_message_that_fits_in_no_frame_is_refused_here(caller: Caller) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        caller.call("/service/Echo", bytes(20_000))


def test_nobody_to_call_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Caller(str(tmp_path / "none.sock"))


def test_a_server_that_goes_away_is_an_error(tmp_path: Path) -> None:
    listener = listen_unix(tmp_path / "s.sock")
    caller = Caller(str(tmp_path / "s.sock"), timeout=20)
    accepted, _ = listener.accept()
    accepted.close()
    with pytest.raises((ConnectionFailed, OSError)):
        caller.call("/service/Echo", b"")
    caller.close()
    listener.close()


_SHORT_OF_DESCRIPTORS = """
import os, pathlib, resource, sys, time
from snapshotter.rpc.client import Caller
from snapshotter.rpc.server import Server
from snapshotter.sockets import listen_unix

path = pathlib.Path(sys.argv[1])
server = Server(listen_unix(path), {"/service/Echo": lambda message, call: call.answer(message)})
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
caller = Caller(str(path), timeout=20)
caller.call("/service/Echo", b"")
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    os.close(taken.pop())
tries, admit = [], server._told.admit
server._told.admit = lambda kind: tries.append(kind) or admit(kind)
late = Caller(str(path), timeout=20)  # with the last descriptor: none is left to accept it
while len(tries) < 3:
    time.sleep(0.01)
while taken:
    os.close(taken.pop())
assert late.call("/service/Echo", b"at last") == b"at last"
"""


def test_a_server_out_of_descriptors_takes_a_client_once_it_has_one_and_says_it_once(
    tmp_path: Path,
) -> None:
    script = [sys.executable, "-c", _SHORT_OF_DESCRIPTORS, str(tmp_path / "s.sock")]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert said.count("connection not accepted") == 1
