"""Answers that never end: headers that trickle, and answers before the answer."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable

import pytest
from registry_scripted import Reply, scripted

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import BadAnswer, RegistryError, Unreachable
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.units import ByteSize, Seconds

OPTIONS = RegistryOptions(
    certs_d=(),
    docker_config="/nonexistent",
    read_timeout=Seconds(0.5),  # which each byte begins anew
    answer_timeout=Seconds(0.8),
    min_rate=ByteSize(0),
)
START = b"HTTP/1.1 200 OK\r\nX-Long: "
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def manifest(registry: Registry, address: str) -> object:
    return registry.manifest(Reference.parse(f"{address}/m:1"))


def resolve(registry: Registry, address: str) -> object:
    return registry.resolve(Reference.parse(f"{address}/m:1"))


def blob(registry: Registry, address: str) -> object:
    descriptor = Descriptor("x/y", Digest("sha256:" + "0" * 64), 1000)
    return registry.origin(address, "m", descriptor).open(10, 500)


@pytest.mark.parametrize("ask", [manifest, resolve, blob])
@pytest.mark.parametrize(
    ("raw", "more"), [(START, itertools.repeat(b"x")), (b"", itertools.repeat(CONTINUE))]
)
def test_an_answer_whose_headers_trickle_is_given_up(
    ask: Callable[[Registry, str], object], raw: bytes, more: Iterable[bytes]
) -> None:
    over = threading.Event()
    registry = Registry(OPTIONS)
    with scripted(lambda request: Reply(raw=raw, trickle=more, hold=over)) as server:
        with pytest.raises(Unreachable, match="in time") as caught:
            ask(registry, server.address)
        assert caught.value.temporary
        over.set()
    registry.close()


@pytest.mark.parametrize("raw", [CONTINUE * 20_000, START + b"x" * 400_000])
@pytest.mark.parametrize("ask", [manifest, blob])
def test_headers_without_end_are_refused(
    ask: Callable[[Registry, str], object], raw: bytes
) -> None:
    registry = Registry(OPTIONS)
    with scripted(lambda request: Reply(raw=raw)) as server, pytest.raises(RegistryError) as caught:
        ask(registry, server.address)
    assert isinstance(caught.value, BadAnswer | Unreachable)
    registry.close()


def test_an_answer_that_takes_its_time_within_reason_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr("snapshotter.registry.deadlines.time.monotonic", lambda: now[0])
    registry = Registry(
        RegistryOptions(certs_d=(), docker_config="/nonexistent", answer_timeout=Seconds(60))
    )

    def answer(request: object) -> Reply:
        now[0] += 40
        return Reply(404)

    with scripted(answer) as server:
        for _ in range(4):  # together longer than one may take, over one connection
            with pytest.raises(RegistryError, match="has no manifest"):
                manifest(registry, server.address)
        assert server.connections == 1
    registry.close()


def test_an_answer_without_a_length_leaves_no_socket_open() -> None:
    registry = Registry(OPTIONS)
    with scripted(lambda request: Reply(raw=b"HTTP/1.1 200 OK\r\n\r\nabc")) as server:
        before = sockets()
        with pytest.raises(RegistryError) as caught:
            blob(registry, server.address)
        while sockets() > before:  # the server's own
            time.sleep(0.01)
        del caught
    registry.close()


def sockets() -> int:
    found = 0
    for fd in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            found += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")  # noqa: PTH115
        except FileNotFoundError:
            continue
    return found
