"""Connections that give too little."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import pytest
from registry_scripted import Reply, scripted

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import Unreachable
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.pace import Pace
from snapshotter.units import ByteSize, Seconds

HEAD = b"HTTP/1.1 206 \r\nContent-Range: bytes 0-999/1000\r\nContent-Length: 1000\r\n\r\n"


def test_too_few_bytes_in_a_window_are_too_slow() -> None:
    pace = Pace(least=10, window=5)
    assert not any(pace.too_slow(1, 1) for _ in range(4))
    assert pace.too_slow(1, 1)


def test_enough_bytes_begin_a_new_window() -> None:
    pace = Pace(least=10, window=5)
    for _ in range(20):
        assert not pace.too_slow(50, 5)
    assert pace.too_slow(49, 5)


def test_any_rate_may_do() -> None:
    pace = Pace(least=0, window=1)
    assert not any(pace.too_slow(0, 10) for _ in range(10))


@pytest.mark.parametrize("wire", [HEAD, b""], ids=["body", "header"])
def test_a_connection_that_trickles_is_given_up(
    wire: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it never pauses as long as its timeout."""
    over = threading.Event()
    looks = itertools.count(step=5.0)  # each byte takes five seconds, by this clock
    clock = SimpleNamespace(monotonic=lambda: next(looks))
    monkeypatch.setattr("snapshotter.registry.paced.time", clock)

    registry = Registry(
        RegistryOptions(
            certs_d=(),
            docker_config="/nonexistent",
            read_timeout=Seconds(30),
            answer_timeout=Seconds(600),
            min_rate=ByteSize(1000),
        )
    )

    def answer(request: object) -> Reply:
        return Reply(raw=wire, trickle=itertools.repeat(b"x"), hold=over)

    with scripted(answer) as server:
        blob = registry.origin(
            server.address, "m", Descriptor("x/y", Digest("sha256:" + "0" * 64), 1000)
        )
        with pytest.raises(Unreachable, match="min_rate") as caught, blob.open(0, 1000) as body:
            body.readinto(memoryview(bytearray(1000)))
        assert caught.value.temporary
        over.set()
    registry.close()
