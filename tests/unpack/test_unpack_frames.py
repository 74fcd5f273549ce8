"""Seek tables of zstd, and layers that are read at random by them."""

from __future__ import annotations

import struct
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from unpack_origin import (
    TAIL,
    Origin,
    Reading,
    archive_of,
    noise,
    packed,
    read,
    rooms,
    seek_table,
    seekable,
    sha256,
    tar,
)

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.mediatypes import Encoding
from snapshotter.errors import ModelpackError
from snapshotter.fetch.errors import FetchError
from snapshotter.unpack import frame_reader, unpacked
from snapshotter.unpack.at_random import INDEX_FRAMES, read_frames
from snapshotter.unpack.frame_reader import FramePool
from snapshotter.unpack.frames import FRAME_LIMIT, Frames, decompress_frame
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.stream import Stream

ZSTD = Encoding.TAR_ZSTD
FRAME = 256 << 10
LONG = 60.0
FILES = {"a.bin": noise(12 << 20, 1), "b.bin": noise(12 << 20, 2), "c.txt": b"the end"}
CONTENT = tar(FILES)
PACKED = seekable(CONTENT, FRAME)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def frames_of(data: bytes) -> Frames | None:
    return read_frames(len(data), lambda start, end: data[start:end])


# The table


@pytest.mark.parametrize("checksums", [False, True])
def test_frames_are_where_the_seek_table_says(checksums: bool) -> None:
    data = noise(1_000_000)
    blob = seekable(data, 300_000, checksums=checksums)
    frames = frames_of(blob)
    assert frames is not None
    assert (len(frames), frames.size) == (4, len(data))
    whole = b""
    for number in range(len(frames)):
        (start, end), (first, last) = frames.span(number), frames.bounds(number)
        whole += decompress_frame(blob[start:end], last - first, "layer")
    assert whole == data
    assert list(frames.touched(299_999, 600_001)) == [0, 1, 2]
    assert list(frames.touched(300_000, 600_000)) == [1]
    assert list(frames.touched(999_999, 1_000_000)) == [3]
    assert list(frames.touched(5, 5)) == []


def test_a_blob_with_a_seek_table_is_an_ordinary_one_for_others() -> None:
    reader = zstandard.ZstdDecompressor().stream_reader(PACKED, read_across_frames=True)
    assert reader.read() == CONTENT


ONE = zstandard.ZstdCompressor().compress(b"x" * 1000)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"short",
        packed(CONTENT[:5000], ZSTD),
        ONE,
        ONE + seek_table([]),
        ONE + seek_table([(len(ONE) - 1, 1000)]),
        ONE + seek_table([(len(ONE), 1000), (1, 1)]),
        ONE + seek_table([(len(ONE), FRAME_LIMIT + 1)]),
        ONE + seek_table([(len(ONE), 1000)])[:-1] + b"\0",
        b"\0" * 20 + struct.pack("<IBI", 1 << 31, 0, 0x8F92EAB1),
        ONE + seek_table([(len(ONE), 1000)])[:-5] + b"\x04" + struct.pack("<I", 0x8F92EAB1),
        ONE + seek_table([(len(ONE), 1000)]).replace(b"\x5e\x2a", b"\x50\x2a", 1),
    ],
    ids=range(12),
)
def test_a_blob_without_a_table_that_adds_up_is_a_stream(blob: bytes) -> None:
    assert frames_of(blob) is None


@given(
    st.binary(max_size=60)
    | st.lists(st.tuples(st.integers(0, 99), st.integers(0, 1 << 32 - 1)), max_size=4).map(
        lambda entries: b"x" * sum(packed for packed, _ in entries) + seek_table(entries)
    ),
    st.integers(0, 80),
    st.binary(max_size=2),
)
def test_any_table_adds_up_or_is_none(blob: bytes, place: int, junk: bytes) -> None:
    damaged = bytearray(blob)
    damaged[place : place + len(junk)] = junk
    frames = frames_of(bytes(damaged))
    if frames is not None:
        assert frames.packed[-1] < len(damaged)
        assert list(frames.packed) == sorted(frames.packed)
        assert max(b - a for a, b in map(frames.bounds, range(len(frames)))) <= FRAME_LIMIT


@given(st.binary(max_size=100), st.integers(0, 2000))
def test_any_bytes_are_a_frame_of_that_size_or_refused(data: bytes, becomes: int) -> None:
    try:
        assert len(decompress_frame(data, becomes, "layer")) == becomes
    except ArtifactError:
        pass


def test_a_frame_that_becomes_much_more_than_said_takes_no_memory() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(256 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="says that a frame becomes 1000 bytes"):
            decompress_frame(bomb, 1000, "layer")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


# Layers


def test_the_end_of_a_layer_is_read_without_what_lies_before(tmp_path: Path) -> None:
    origin = Origin(PACKED)
    with rooms(tmp_path) as node:
        layer = node.unpacker.claim(archive_of(PACKED, ZSTD), origin, sha256(CONTENT))
        entries = layer.index(LONG).entries
        assert [entry.path for entry in entries] == list(FILES)
        assert node.fetcher.stats.fetched_bytes < 3 << 20  # of 24 MiB: the table and the headers
        assert layer.passed == 0
        until(lambda: not node.unpacker._tasks[layer.blob.digest].busy)
        time.sleep(0.05)
        assert layer.passed == 0  # nobody reads, so nothing is unpacked
        origin.allow(0)  # nothing more comes from the front
        end = entries[1].offset + entries[1].size
        got = Reading(layer, end - 5, 5)
        origin.allow()
        assert got.result() == FILES["b.bin"][-5:]
        until(lambda: layer.done)
        for entry in entries:
            assert read(layer, entry.offset, entry.size) == FILES[entry.path]
        assert node.fetcher.stats.fetched_bytes == len(PACKED)
        assert node.bad == []


def test_who_wants_all_of_a_layer_that_rests_has_it_unpacked(tmp_path: Path) -> None:
    with rooms(tmp_path) as node:
        layer = node.unpacker.claim(archive_of(PACKED, ZSTD), Origin(PACKED), sha256(CONTENT))
        layer.index(LONG)
        layer.wait()
        assert layer.done
        assert layer.path.read_bytes() == CONTENT


def test_a_far_read_is_answered_while_the_stream_is_held_up(tmp_path: Path) -> None:
    far = next(frame for frame in [frames_of(PACKED)] if frame)
    with rooms(tmp_path) as node:
        origin = Origin(PACKED)
        layer = node.unpacker.claim(archive_of(PACKED, ZSTD), origin, None)
        entries = layer.index(LONG).entries
        first = Reading(layer, 512, 100)  # begins the stream
        assert first.result() == FILES["a.bin"][:100]
        middle = entries[1].offset + (6 << 20)
        threads = [Reading(layer, middle + n * 100_000, 100_000) for n in range(8)]
        for n, reading in enumerate(threads):
            at = (6 << 20) + n * 100_000
            assert reading.result() == FILES["b.bin"][at : at + 100_000]
        assert far.size == len(CONTENT)
        until(lambda: layer.done)


def test_one_frame_is_fetched_and_decompressed_once_for_all_who_want_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    go = threading.Event()

    def slowly(data: bytes, becomes: int, where: str) -> bytes:
        counted.append(becomes)
        assert go.wait(30)
        return decompress_frame(data, becomes, where)

    with rooms(tmp_path) as node:
        layer = node.unpacker.claim(archive_of(PACKED, ZSTD), Origin(PACKED), None)
        entry = layer.index(LONG).entries[1]
        monkeypatch.setattr(frame_reader, "decompress_frame", slowly)
        at = entry.offset + (8 << 20)
        at += FRAME - at % FRAME
        readings = [Reading(layer, at + n, 1000) for n in range(20)]
        go.set()
        for n, reading in enumerate(readings):
            assert reading.result() == CONTENT[at + n : at + n + 1000]
        assert counted == [FRAME]


def test_what_was_indexed_once_is_known_at_once_and_read_at_random_again(tmp_path: Path) -> None:
    for life in range(2):
        with rooms(tmp_path) as node:
            layer = node.unpacker.claim(archive_of(PACKED, ZSTD), Origin(PACKED), None)
            entry = layer.index(0 if life else LONG).entries[1]
            assert read(layer, entry.offset + (11 << 20), 9) == FILES["b.bin"][11 << 20 :][:9]


def test_an_archive_of_so_many_files_that_all_frames_are_needed_is_unpacked_for_its_names(
    tmp_path: Path,
) -> None:
    content = tar({f"{n}.txt": noise(3000, n) for n in range(2000)})
    data = seekable(content, 64 << 10)
    assert len(content) // (64 << 10) > INDEX_FRAMES
    with rooms(tmp_path) as node:
        layer = node.unpacker.claim(archive_of(data, ZSTD), Origin(data), None)
        entries = layer.index(LONG).entries
        assert len(entries) == 2000
        until(lambda: layer.done)
        assert read(layer, entries[-1].offset, 3000) == noise(3000, 1999)


def test_a_table_that_lies_about_one_frame_is_found_out_and_the_stream_serves(
    tmp_path: Path,
) -> None:
    right = frames_of(PACKED)
    assert right is not None
    spans = [right.span(n) for n in range(len(right))]
    sizes = [right.bounds(n) for n in range(len(right))]
    entries = [(b - a, d - c) for (a, b), (c, d) in zip(spans, sizes, strict=True)]
    # Two frames in the middle of b.bin that say the other is longer: headers lie where they do.
    entries[60] = (entries[60][0], entries[60][1] + 10)
    entries[61] = (entries[61][0], entries[61][1] - 10)
    data = seekable(CONTENT, FRAME, entries=entries)
    with rooms(tmp_path) as node:
        layer = node.unpacker.claim(archive_of(data, ZSTD), Origin(data), None)
        layer.index(LONG)
        at = right.bounds(60)[0]
        assert read(layer, at, FRAME) == CONTENT[at : at + FRAME]
        until(lambda: layer.done)
        assert layer.failure is None
        assert node.bad == []


def swapped() -> bytes:
    """A table whose two first entries are each other's, of frames that are as long packed: it
    adds up, and what it says of the second is not so."""
    content = tar({"a.bin": noise(40 << 20, 9)})
    pieces = [content[at : at + (1 << 20)] for at in range(0, len(content), 1 << 20)]
    compress = zstandard.ZstdCompressor(level=1).compress
    frames = [compress(piece) for piece in pieces]
    # An empty frame more that the table has as a part of no frame: everything behind shifts.
    extra = compress(b"0123456789")
    frames[20] += extra
    entries = [(len(f), len(p)) for f, p in zip(frames, pieces, strict=True)]
    return b"".join(frames) + seek_table(entries)


def test_wrong_bytes_that_a_table_led_to_are_found_when_the_stream_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_ones_read, feed = threading.Event(), Stream.feed

    def fed(self: Stream, piece: bytes) -> None:
        assert wrong_ones_read.wait(LONG)
        feed(self, piece)

    monkeypatch.setattr(unpacked, "_NEAR", 1)
    monkeypatch.setattr(Stream, "feed", fed)
    data = swapped()
    with rooms(tmp_path) as node:
        origin = Origin(data)
        layer = node.unpacker.claim(archive_of(data, ZSTD), origin, None)
        (entry,) = layer.index(LONG).entries
        read(layer, entry.offset + (30 << 20), 1000)  # ten bytes off, and nobody can know
        wrong_ones_read.set()
        until(lambda: layer.failure is not None)
        with pytest.raises(FetchError, match="its seek table says"):
            read(layer, entry.offset, 10)
        until(lambda: node.bad == [layer.blob])


def test_a_registry_that_lost_the_blob_is_an_error_of_the_read_and_the_next_may_be_luckier(
    tmp_path: Path,
) -> None:
    with rooms(tmp_path) as node:
        origin = Origin(PACKED)
        layer = node.unpacker.claim(archive_of(PACKED, ZSTD), origin, None)
        entry = layer.index(LONG).entries[1]
        origin.gone = True
        with pytest.raises(FetchError, match="404"):
            read(layer, entry.offset + (6 << 20), 100)
        until(lambda: not node.fetcher._busy())  # what was asked before may fail still
        origin.gone = False
        assert read(layer, entry.offset + (6 << 20), 100) == FILES["b.bin"][6 << 20 :][:100]


def test_closing_answers_who_waits_for_a_frame(tmp_path: Path) -> None:
    with rooms(tmp_path) as node:
        origin = Origin(PACKED)
        layer = node.unpacker.claim(archive_of(PACKED, ZSTD), origin, None)
        entry = layer.index(LONG).entries[0]
        origin.allow(0)
        readings = [Reading(layer, entry.offset + (9 << 20) + n * FRAME, 10) for n in range(5)]
    for reading in readings:
        with pytest.raises(ModelpackError):
            reading.result()


def test_a_frame_takes_its_turn_when_there_is_no_memory_for_it() -> None:
    pool = FramePool(1, 10)
    begun: list[str] = []
    for name, size in (("a", 8), ("b", 8), ("c", 2)):
        pool.begin(size, lambda name=name: begun.append(name))  # type: ignore[misc]
    assert begun == ["a"]
    pool.end(8)
    assert begun == ["a", "b", "c"]
    pool.end(8)
    pool.end(2)
    pool.begin(100, lambda: begun.append("large"))  # alone, whatever its size
    assert begun[-1] == "large"
    pool.close()


def test_what_is_kept_of_frames_is_bounded_and_the_oldest_goes_first() -> None:
    pool = FramePool(1, 10)
    digest = sha256(b"")
    for number in range(3):
        pool.keep(digest, number, bytes(5))
    assert [pool.get(digest, number) is not None for number in range(3)] == [False, True, True]
    pool.forget(digest)
    assert pool.get(digest, 2) is None
    pool.close()


def test_many_frames_that_fail_at_once_do_not_grow_the_stack() -> None:
    pool = FramePool(1, 10)
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        pool.end(10)

    pool.begin(10, lambda: None)
    for number in range(5000):
        pool.begin(10, lambda number=number: work(number))  # type: ignore[misc]
    pool.end(10)
    assert len(done) == 5000
    pool.close()


def test_memory_stays_bounded_while_many_read_at_random(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpacked, "_NEAR", 1)
    content = tar({"a.bin": bytes(192 << 20)})
    data = seekable(content, 4 << 20)
    assert len(data) < TAIL  # so it is here at once
    options = UnpackOptions(frame_memory=UnpackOptions().frame_memory // 8, max_ratio=100_000)
    with rooms(tmp_path, options) as node:
        layer = node.unpacker.claim(archive_of(data, ZSTD), Origin(data), None)
        layer.index(LONG)
        tracemalloc.start()
        try:
            readings = [Reading(layer, 512 + n * (2 << 20), 4096) for n in range(90)]
            assert all(reading.result() == bytes(4096) for reading in readings)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 64 << 20
