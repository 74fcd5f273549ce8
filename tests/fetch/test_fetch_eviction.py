"""Readers, gates and hashing beside what takes bytes away: evictions, and a failing disk."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from fetch_node import CONTENT, DIGEST, KIB, MIB, QUICK, SIZE, Node
from fetch_origin import BlobServer, serving

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.options import CacheOptions
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.verify_options import VerifyOptions
from snapshotter.units import Capacity, Seconds

CHUNK = 256 * KIB
CHUNKS = ChunkDigests(
    SIZE,
    CHUNK,
    b"".join(hashlib.sha256(CONTENT[at : at + CHUNK]).digest() for at in range(0, SIZE, CHUNK)),
)
STRICT = VerifyOptions(mode="strict")
COMPLETING = FetchOptions(background_delay=Seconds(0), **QUICK)


@pytest.fixture
def server(tmp_path) -> Iterator[BlobServer]:
    (tmp_path / "source").write_bytes(CONTENT)
    with serving(tmp_path / "source") as server:
        yield server


@pytest.fixture
def make(tmp_path, server) -> Iterator[Callable[..., Node]]:
    made: list[Node] = []

    def make(**how) -> Node:
        made.append(Node(tmp_path / "cache", server, **how))
        return made[-1]

    yield make
    for node in made:
        node.close()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Evicting:
    """A thread that evicts at random while it is entered."""

    def __init__(self, node: Node, *, pause: float = 0.003) -> None:
        self._node = node
        self._pause = pause
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.evicted = 0

    def _run(self) -> None:
        rng = random.Random(1)
        while not self._stop.wait(self._pause):
            start = rng.randrange(SIZE)
            self.evicted += self._node.blob.evict([(start, min(SIZE, start + 2 * MIB))])
            self._node.fetcher.evicted(self._node.blob)

    def __enter__(self) -> Evicting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.parametrize("how", [{}, {"chunks": CHUNKS}], ids=["as it comes", "chunks"])
def test_readers_beside_evictions_get_only_right_bytes(make, how) -> None:
    node = make(options=COMPLETING, **how)
    failures: list[str] = []

    def read(seed: int) -> None:
        rng, done = random.Random(seed), 0
        while done < 60 or evicting.evicted < 3:
            offset, size = rng.randrange(SIZE), rng.randrange(1, MIB)
            if node.read(offset, size, stream=seed) != CONTENT[offset : offset + size]:
                failures.append(f"{size} at {offset}")
            done += 1

    with Evicting(node) as evicting:
        readers = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert failures == []
    # Nobody is blamed for what we took away ourselves.
    assert (node.fetcher.stats.wrong_chunks, node.fetcher.stats.wrong_blobs) == (0, 0)
    assert node.origin.distrusted == 0


def test_a_strict_reader_gets_right_bytes_once_evictions_leave_it_the_time(make) -> None:
    node = make(verify=STRICT)
    answers = [node.ask(offset, 1000) for offset in range(0, SIZE, MIB)]
    for _ in range(2):
        until(lambda: node.blob.present_bytes > 3 * MIB)
        node.blob.evict([(0, 2 * MIB)])
    for number, answer in enumerate(answers):
        assert answer.get() == CONTENT[number * MIB : number * MIB + 1000]
    # The second eviction may have come when all were answered.
    assert node.read_forward() == CONTENT
    until(lambda: node.blob.state is BlobState.VERIFIED)


def test_a_verified_blob_is_hashed_again_after_an_eviction(make) -> None:
    node = make()
    assert node.read_forward() == CONTENT
    until(lambda: node.blob.state is BlobState.VERIFIED)
    assert node.blob.evict([(MIB, 2 * MIB)])
    assert node.blob.state is BlobState.PARTIAL
    assert node.read(MIB, MIB) == CONTENT[MIB : 2 * MIB]
    until(lambda: node.fetcher.stats.verified_blobs == 2)
    assert node.blob.state is BlobState.VERIFIED


def test_what_was_evicted_is_not_brought_back_until_somebody_reads_it(make) -> None:
    node = make(options=COMPLETING)
    node.read(0, 10)
    until(lambda: node.blob.complete)
    node.blob.evict([(0, SIZE)])
    node.fetcher.evicted(node.blob)
    node.fetcher.made_room()
    sent = node.server.sent_bytes
    assert node.read(0, 10) == CONTENT[:10]
    time.sleep(0.3)
    assert node.server.sent_bytes - sent < MIB
    assert not node.blob.complete


def test_a_model_is_not_completed_into_a_cache_that_fills_up(make) -> None:
    bounds = CacheOptions(quota=Capacity("4MiB"), keep_free=Capacity("0%"))
    node = make(options=COMPLETING, bounds=bounds)
    assert node.read(0, 10) == CONTENT[:10]
    (download,) = node.model.origins
    until(lambda: not node.store.space.plenty and not download.flights)
    fetched = node.fetcher.stats.fetched_bytes
    time.sleep(0.3)
    assert node.fetcher.stats.fetched_bytes == fetched < SIZE
    assert node.store.allocated() <= 4 * MIB
    assert node.read_forward() == CONTENT
    assert node.store.allocated() <= 4 * MIB
    # With room again, it goes on.
    node.blob.evict([(0, 2 * MIB)])
    node.fetcher.made_room()
    until(lambda: node.blob.present_bytes > 2 * MIB + MIB // 2)


def test_a_strict_reader_of_what_never_fits_is_told_at_once(make) -> None:
    bounds = CacheOptions(quota=Capacity("4MiB"), keep_free=Capacity("0%"))
    node = make(verify=STRICT, bounds=bounds)
    with pytest.raises(FetchError, match="cache did not take all of it"):
        node.read(0, 10)
    assert node.server.requests == []


class FailingDisk:
    """Gives nothing of the files that a blob has now, once it is told so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._lost = -1
        self._preadv = os.preadv
        monkeypatch.setattr(os, "preadv", self._read)

    def lose(self, blob: Blob) -> None:
        self._lost = blob.path.stat().st_ino

    def replaced(self, blob: Blob) -> bool:
        """Whether the blob began anew, in another file."""
        return not blob.void and blob.path.stat().st_ino != self._lost

    def _read(self, fd, buffers, offset) -> int:
        if os.fstat(fd).st_ino == self._lost:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._preadv(fd, buffers, offset)


@pytest.mark.parametrize(
    "how", [{}, {"chunks": CHUNKS}, {"verify": STRICT}], ids=["as it comes", "chunks", "strict"]
)
def test_what_the_disk_does_not_give_comes_again(make, how, monkeypatch) -> None:
    disk = FailingDisk(monkeypatch)
    node = make(options=COMPLETING, **how)
    assert node.read_forward() == CONTENT
    until(lambda: node.blob.state is BlobState.VERIFIED)
    sent = node.server.sent_bytes
    disk.lose(node.blob)
    assert node.read(MIB, 100) == CONTENT[MIB : MIB + 100]
    assert node.server.sent_bytes > sent
    until(lambda: disk.replaced(node.blob))
    assert node.read_forward() == CONTENT
    until(lambda: node.blob.state is BlobState.VERIFIED)
    assert (node.fetcher.stats.wrong_blobs, node.origin.distrusted) == (0, 0)


def test_what_the_disk_does_not_give_for_hashing_comes_again(make, monkeypatch) -> None:
    disk = FailingDisk(monkeypatch)
    node = make()
    node.read(0, 100)
    disk.lose(node.blob)
    for offset in range(0, SIZE, MIB):
        node.read(offset, MIB)  # from memory, as it comes
        if disk.replaced(node.blob):
            break
    until(lambda: disk.replaced(node.blob))

    def whole() -> bool:
        assert node.read_forward() == CONTENT
        return node.blob.complete  # but for what came while the cache took nothing

    until(whole)
    until(lambda: node.blob.state is BlobState.VERIFIED)
    assert node.blob.digest == DIGEST
