"""A blob that came wrong: put away, asked for again, and not served before it was hashed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fetch_node import CONTENT, DIGEST, MIB, SIZE, Node
from fetch_origin import BlobServer, serving

from snapshotter.cache import quarantine
from snapshotter.cache.blob import BlobState
from snapshotter.cache.quarantine import Quarantine
from snapshotter.fetch.errors import FetchError

WRONG = 5 * MIB


@pytest.fixture
def server(tmp_path) -> Iterator[BlobServer]:
    """One that gives a wrong byte."""
    (tmp_path / "right").write_bytes(CONTENT)
    damaged = bytearray(CONTENT)
    damaged[WRONG] ^= 1
    (tmp_path / "wrong").write_bytes(damaged)
    with serving(tmp_path / "wrong") as server:
        yield server


def mend(server: BlobServer) -> None:
    server.path = server.path.with_name("right")


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def condemned(node: Node) -> bool:
    return node.blob.state is BlobState.BAD and bool(node.store.quarantine.records())


def come_wrong(node: Node) -> None:
    node.read(0, SIZE)  # at once: between two reads it could be found out
    until(lambda: condemned(node))


def reads(node: Node) -> bool:
    try:
        return node.read(WRONG - 5, 10) == CONTENT[WRONG - 5 : WRONG + 5]
    except FetchError:
        return False


def test_it_is_put_away_and_said_to_be_so(tmp_path, server, monkeypatch) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE", 3600.0)
    node = Node(tmp_path / "cache", server)
    come_wrong(node)
    (record,) = node.store.quarantine.records()
    assert (record.digest, record.size, record.times) == (DIGEST, SIZE, 1)
    assert record.sources == ["registry.test/model@sha256:0"]
    assert "hash to" in record.why
    assert record.again_at > time.time() + 3000
    mend(server)
    asked = len(server.requests)
    for _ in range(3):
        with pytest.raises(FetchError, match="none is served any more"):
            node.read(0, 10)
    assert len(server.requests) == asked
    assert node.origin.distrusted == 1  # another host goes first
    node.close()


def test_it_is_served_again_once_it_came_right(tmp_path, server, monkeypatch) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE", 0.1)
    node = Node(tmp_path / "cache", server)
    come_wrong(node)
    mend(server)
    until(lambda: reads(node))
    assert node.blob.state is BlobState.VERIFIED
    assert node.read_forward() == CONTENT
    until(lambda: node.store.quarantine.records() == [])
    until(lambda: not list((tmp_path / "cache" / "quarantine").iterdir()))
    node.close()


def test_it_comes_wrong_again_and_no_byte_of_it_is_served(tmp_path, server, monkeypatch) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE", 0.1)
    node = Node(tmp_path / "cache", server)
    come_wrong(node)

    def again() -> bool:
        with pytest.raises(FetchError):
            node.read(0, 10)  # which is right, but who knows
        (record,) = node.store.quarantine.records()
        return record.times >= 3

    until(again)
    (record,) = node.store.quarantine.records()
    assert record.again_at - record.at >= 0.4
    node.close()


def test_the_next_life_remembers(tmp_path, server, monkeypatch) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE", 0.1)
    node = Node(tmp_path / "cache", server)
    come_wrong(node)
    node.close()
    del node
    again = Node(tmp_path / "cache", server)
    assert again.blob.state is BlobState.PARTIAL
    time.sleep(0.2)
    with pytest.raises(FetchError, match="none is served any more"):
        again.read(0, 10)
    mend(server)
    until(lambda: reads(again))
    again.close()


@pytest.mark.parametrize("note", [b"", b"{", b'{"digest": "\xff"}'])
def test_a_damaged_note_of_a_wrong_blob_is_no_note(tmp_path: Path, note: bytes) -> None:
    (tmp_path / "sha256-0").write_bytes(note)
    assert Quarantine(tmp_path).records() == []
