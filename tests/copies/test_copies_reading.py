"""Ranges read without a cache: in order, over broken connections, broken off."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Callable
from contextlib import closing

import pytest

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.marker import ModelRef
from snapshotter.copies.errors import CopyError
from snapshotter.copies.reading import PIECE, Blobs
from snapshotter.fetch.options import FetchOptions
from snapshotter.registry.blobs import BlobOrigin, RangeBody
from snapshotter.registry.errors import NotFound, RegistryError, Unreachable
from snapshotter.units import Seconds

DATA = random.Random(1).randbytes(5 * PIECE + 17)
BLOB = Descriptor("", digest_of(DATA), len(DATA))
REF = ModelRef("registry.example", "model", digest_of(b"manifest"))
_QUICK = FetchOptions(first_backoff=Seconds(0.001), max_backoff=Seconds(0.001))


class Body(RangeBody):
    def __init__(self, start: int, end: int, fault: Callable[[], RegistryError | None]) -> None:
        self.at, self.end, self.fault = start, end, fault

    def readinto(self, buffer: memoryview) -> int:
        if (error := self.fault()) is not None:
            raise error
        count = min(len(buffer), self.end - self.at)
        buffer[:count] = DATA[self.at : self.at + count]
        self.at += count
        return count

    def close(self) -> None:
        pass


class Zeros(BlobOrigin):
    """A large blob that takes no memory itself."""

    name = "zeros"
    size = 256 << 20

    def open(self, start: int, end: int) -> RangeBody:
        return ZeroBody(end - start)

    def distrust(self) -> None:
        pass


class ZeroBody(RangeBody):
    def __init__(self, left: int) -> None:
        self.left = left

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self.left)
        self.left -= count
        return count

    def close(self) -> None:
        pass


class Registry:
    """Its one blob; ``fault`` is asked before each piece of a body."""

    def __init__(self, fault: Callable[[], RegistryError | None] = lambda: None) -> None:
        self.fault = fault

    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin:
        assert (registry, repository) == (REF.registry, REF.repository)
        return Origin(self.fault)


class Origin(BlobOrigin):
    name = "the blob"
    size = len(DATA)

    def __init__(self, fault: Callable[[], RegistryError | None]) -> None:
        self.fault = fault

    def open(self, start: int, end: int) -> RangeBody:
        return Body(start, end, self.fault)

    def distrust(self) -> None:
        pass


@pytest.mark.parametrize(("start", "end"), [(0, len(DATA)), (5, PIECE + 9), (7, 7), (3, 4)])
def test_pieces_come_in_order(start: int, end: int) -> None:
    with Blobs(Registry(), REF, _QUICK) as blobs:
        assert b"".join(blobs.pieces(BLOB, start, end)) == DATA[start:end]
        assert blobs.fetched_bytes == end - start
        assert blobs.read(BLOB, len(DATA) - 3, 100) == DATA[-3:]


def test_a_connection_that_breaks_is_taken_up_where_it_broke() -> None:
    chance = random.Random(2)
    lock = threading.Lock()

    def often() -> RegistryError | None:
        with lock:
            return Unreachable("broken", temporary=True) if chance.random() < 0.3 else None

    with Blobs(Registry(often), REF, _QUICK) as blobs:
        assert b"".join(blobs.pieces(BLOB, 0, len(DATA))) == DATA
        assert blobs.fetched_bytes == len(DATA)


def test_what_will_not_come_is_an_error() -> None:
    with (
        Blobs(Registry(lambda: NotFound("gone")), REF, _QUICK) as blobs,
        pytest.raises(NotFound),
    ):
        list(blobs.pieces(BLOB, 0, len(DATA)))
    late = FetchOptions(read_deadline=Seconds(0.05))
    with (
        Blobs(Registry(lambda: Unreachable("down", temporary=True)), REF, late) as blobs,
        pytest.raises(Unreachable),
    ):
        blobs.read(BLOB, 0, 1)


def test_who_waits_for_a_registry_that_is_down_can_be_stopped() -> None:
    waiting = threading.Event()

    def down() -> RegistryError:
        waiting.set()
        return Unreachable("down", temporary=True)

    blobs = Blobs(Registry(down), REF, FetchOptions())
    failures: list[Exception] = []

    def read() -> None:
        try:
            blobs.read(BLOB, 0, 10)
        except CopyError as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    waiting.wait()
    blobs.close()
    thread.join(timeout=30)
    assert len(failures) == 1


def test_one_who_had_enough_breaks_off_for_others_nothing() -> None:
    with Blobs(Registry(), REF, _QUICK) as blobs:
        with closing(blobs.pieces(BLOB, 0, len(DATA))) as pieces:
            assert next(pieces) == DATA[:PIECE]
        assert b"".join(blobs.pieces(BLOB, 0, len(DATA))) == DATA


def test_memory_does_not_grow_with_the_size_of_what_is_read() -> None:
    class Large:
        def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin:
            return Zeros()

    large = Descriptor("", BLOB.digest, Zeros.size)
    tracemalloc.start()
    try:
        with Blobs(Large(), REF, _QUICK) as blobs:
            total = sum(map(len, blobs.pieces(large, 0, large.size)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == large.size
    assert peak < 64 << 20
