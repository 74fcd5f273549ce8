"""Compressed layers on their way into the cache, and those who read them meanwhile."""

from __future__ import annotations

import errno
import os
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from unpack_origin import (
    Origin,
    Reading,
    archive_of,
    noise,
    packed,
    read,
    rooms,
    sha256,
    tar,
)

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.mediatypes import Encoding
from snapshotter.artifact.tar import TarEntry
from snapshotter.cache.blob import BlobState
from snapshotter.cache.errors import CacheError
from snapshotter.errors import ModelpackError
from snapshotter.fetch.errors import FetchError
from snapshotter.unpack import stream as stream_module
from snapshotter.unpack.content import Content
from snapshotter.unpack.errors import UnpackError
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.stream import Stream
from snapshotter.unpack.unpacked import Unpacked

BOTH = pytest.mark.parametrize("encoding", [Encoding.TAR_GZIP, Encoding.TAR_ZSTD])
FILES = {"a.bin": noise(3 << 20, 1), "b.bin": noise(2 << 20, 2), "c.txt": b"the end"}
GZIP = Encoding.TAR_GZIP
LONG = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def content(unpacked: Unpacked, entry: TarEntry) -> bytes:
    return read(unpacked, entry.offset, entry.size)


@BOTH
def test_every_file_of_a_compressed_layer_is_read(tmp_path: Path, encoding: Encoding) -> None:
    archive = archive_of(data := packed(tar(FILES), encoding), encoding)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), sha256(tar(FILES)))
        entries = unpacked.index(LONG).entries
        assert {entry.path: content(unpacked, entry) for entry in entries} == FILES
        until(lambda: unpacked.done)
        assert node.bad == []


@BOTH
def test_what_has_passed_is_read_before_the_rest_came(tmp_path: Path, encoding: Encoding) -> None:
    data = packed(tar(FILES), encoding)
    origin = Origin(data, limit=(2 << 20))
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive_of(data, encoding), origin, None)
        assert read(unpacked, 512, 4096) == FILES["a.bin"][:4096]
        late = Reading(unpacked, 512 + (3 << 20) - 100, 100)
        with pytest.raises(UnpackError, match=r"[12]\.0 MiB of 5\.0 MiB .* try again, or publish"):
            unpacked.index(0)
        assert not late.answered
        origin.allow()
        assert late.result() == FILES["a.bin"][-100:]
        assert len(unpacked.index(LONG).entries) == 3


def test_a_layer_that_says_it_is_one_file_is_known_by_its_first_header(tmp_path: Path) -> None:
    data = packed(tar({"model.bin": FILES["a.bin"]}), GZIP)
    origin = Origin(data, limit=1 << 20)
    with rooms(tmp_path) as node:
        archive = archive_of(data, GZIP, single=("model.bin", 3 << 20))
        unpacked = node.unpacker.claim(archive, origin, None)
        (entry,) = unpacked.index(LONG).entries
        assert (entry.path, entry.size, unpacked.done) == ("model.bin", 3 << 20, False)
        assert read(unpacked, entry.offset, 1000) == FILES["a.bin"][:1000]
        origin.allow()
        assert content(unpacked, entry) == FILES["a.bin"]


def test_a_second_file_where_one_was_said_is_an_error_once_it_is_seen(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    origin = Origin(data, limit=1 << 20)
    with rooms(tmp_path) as node:
        archive = archive_of(data, GZIP, single=("a.bin", 3 << 20))
        unpacked = node.unpacker.claim(archive, origin, None)
        assert len(unpacked.index(LONG).entries) == 1
        origin.allow()
        until(lambda: unpacked.failure is not None)
        with pytest.raises(FetchError, match=r"has 'b.bin' beside the one file"):
            read(unpacked, 512, 100)
        until(lambda: node.bad == [unpacked.blob])


def test_another_size_than_was_said_waits_for_all_headers(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    with rooms(tmp_path) as node:
        archive = archive_of(data, GZIP, single=("a.bin", 17))
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        assert len(unpacked.index(LONG).entries) == 3


@BOTH
def test_it_is_unpacked_once_and_never_fetched_again(tmp_path: Path, encoding: Encoding) -> None:
    data = packed(tar(FILES), encoding)
    archive = archive_of(data, encoding)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        again = node.unpacker.claim(archive, Origin(data), None)
        assert again is unpacked
        until(lambda: unpacked.done)
        fetched = node.fetcher.stats.fetched_bytes
        assert fetched == len(data)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(b""), None)
        assert unpacked.done
        entries = unpacked.index(0).entries
        assert {entry.path: content(unpacked, entry) for entry in entries} == FILES
        assert node.fetcher.stats.fetched_bytes == 0


def test_a_lost_index_is_read_again_from_what_is_unpacked(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    archive = archive_of(data, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        until(lambda: unpacked.done)
    for kept in (tmp_path / "indexes").rglob("*"):
        if kept.is_file():
            kept.write_bytes(b"torn")
    with rooms(tmp_path) as node:
        assert len(node.unpacker.claim(archive, Origin(b""), None).index(0).entries) == 3


def test_after_a_kill_it_is_unpacked_anew_from_cached_bytes_without_a_wrong_one(
    tmp_path: Path,
) -> None:
    data = packed(tar(FILES), GZIP)
    archive = archive_of(data, GZIP)
    directory = tmp_path / "unpacked" / "sha256" / archive.descriptor.digest[7:]
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data, limit=4 << 20), None)
        until(lambda: unpacked.passed > 1 << 20)
    # As a kill leaves it: bytes, some of them wrong, and no record.
    (directory / "data").write_bytes(b"half a life" * 500_000)
    origin = Origin(data)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, origin, None)
        entries = unpacked.index(LONG).entries
        assert {entry.path: content(unpacked, entry) for entry in entries} == FILES
        until(lambda: unpacked.done)
        assert node.fetcher.stats.fetched_bytes < len(data)


def test_names_that_were_known_are_known_at_once_after_a_kill(tmp_path: Path) -> None:
    files = {**FILES, "z.bin": b""}
    data = packed(tar(files) + bytes(8 << 20), GZIP) + packed(noise(4 << 20), GZIP)
    archive = archive_of(data, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data, limit=len(data) - 100), None)
        index = tmp_path / "indexes" / "sha256" / archive.descriptor.digest[7:]
        until(index.exists)
        assert not unpacked.done
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data, limit=0), None)
        assert len(unpacked.index(0).entries) == 4


@pytest.mark.parametrize("damage", ["data", "done"])
def test_unpacked_bytes_that_do_not_match_their_record_count_for_nothing(
    tmp_path: Path, damage: str
) -> None:
    data = packed(tar(FILES), GZIP)
    archive = archive_of(data, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        until(lambda: unpacked.done)
    path = tmp_path / "unpacked" / "sha256" / archive.descriptor.digest[7:] / damage
    path.write_bytes(path.read_bytes()[:-1])
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        (first, *_) = unpacked.index(LONG).entries
        assert content(unpacked, first) == FILES["a.bin"]


def test_bytes_that_are_not_of_the_digest_are_dropped_and_an_error(tmp_path: Path) -> None:
    wrong, right = packed(tar({"a": b"evil" * 999}), GZIP), packed(tar({"a": b"good" * 999}), GZIP)
    wrong += bytes(max(0, len(right) - len(wrong)))
    archive = archive_of(right + bytes(len(wrong) - len(right)), GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(wrong), None)
        with pytest.raises(UnpackError, match="gave wrong bytes; none is served"):
            unpacked.index(LONG)
        with pytest.raises(FetchError, match="gave wrong bytes"):
            read(unpacked, 512, 4)
        until(lambda: unpacked.blob in node.bad)
        assert (
            tmp_path / "unpacked/sha256" / archive.descriptor.digest[7:] / "data"
        ).stat().st_size == 0


def test_wrong_bytes_that_do_not_even_decompress_do_not_stay_in_the_cache(tmp_path: Path) -> None:
    right = packed(tar(FILES), GZIP)
    wrong = right[:100_000] + bytes(100_000) + right[200_000:]
    archive = archive_of(right, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(wrong), None)
        with pytest.raises(ArtifactError, match="malformed gzip"):
            unpacked.index(LONG)
        node.unpacker.release(unpacked)
        until(lambda: node.bad.count(unpacked.blob) == 2)  # ours, and the fetcher's verdict
        del unpacked
        node.bad.clear()
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(right), None)
        assert len(unpacked.index(LONG).entries) == 3


def test_bytes_that_the_fetcher_finds_wrong_first_are_not_served_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = packed(tar(FILES), GZIP)
    archive = replace(
        archive_of(data, GZIP), descriptor=archive_of(b"x" * len(data), GZIP).descriptor
    )
    hashed, feed = threading.Event(), Stream.feed

    def fed(self: Stream, piece: bytes) -> None:
        if self.taken > 2 << 20:
            assert hashed.wait(LONG)
        feed(self, piece)

    monkeypatch.setattr(Stream, "feed", fed)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        assert read(unpacked, 512, 100) == FILES["a.bin"][:100]
        late = Reading(unpacked, 4 << 20, 100)
        node.fetcher.prefetch(
            node.unpacker._tasks[archive.descriptor.digest].sources[0],
            [(unpacked.blob, 0, len(data))],
        )
        until(lambda: unpacked.blob.state is BlobState.BAD)
        hashed.set()
        with pytest.raises(FetchError, match=r"digest|wrong bytes"):
            late.result()
        until(lambda: unpacked.state is BlobState.BAD)
        with pytest.raises(FetchError):
            read(unpacked, 512, 100)


@BOTH
def test_content_that_is_not_of_its_diff_id_is_an_error(tmp_path: Path, encoding: Encoding) -> None:
    data = packed(tar(FILES), encoding)
    archive = archive_of(data, encoding)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), sha256(b"other"))
        until(lambda: unpacked.failure is not None)
        with pytest.raises(ArtifactError, match=r"decompressed it hashes to sha256:.* config says"):
            unpacked.index(0)


def test_a_diff_id_is_compared_with_what_was_unpacked_before_too(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    archive = archive_of(data, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        until(lambda: unpacked.done)
    with rooms(tmp_path) as node:
        with pytest.raises(ArtifactError, match="config says"):
            node.unpacker.claim(archive, Origin(data), sha256(b"other"))
        assert node.unpacker.claim(archive, Origin(data), sha256(tar(FILES))).done


def test_the_digest_as_stored_for_a_diff_id_says_nothing(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    archive = archive_of(data, GZIP)
    for _ in range(2):
        with rooms(tmp_path) as node:
            unpacked = node.unpacker.claim(archive, Origin(data), archive.descriptor.digest)
            until(lambda unpacked=unpacked: unpacked.done)  # type: ignore[misc]


def test_a_bomb_is_refused_when_it_expands_beyond_the_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "FREE", 1 << 20)
    data = packed(tar({"zeros": bytes(16 << 20)}), Encoding.TAR_ZSTD)
    with rooms(tmp_path, UnpackOptions(max_ratio=10)) as node:
        unpacked = node.unpacker.claim(archive_of(data, Encoding.TAR_ZSTD), Origin(data), None)
        with pytest.raises(ArtifactError, match="over 10 times as much is refused"):
            unpacked.index(LONG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no tar" * 200, "no tar header"),
        (tar(FILES)[: 1 << 20], "archive is truncated: byte 3146240 is needed"),
        (tar(FILES)[: 512 + (3 << 20) + 100], "truncated"),
    ],
)
def test_what_is_no_whole_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    data = packed(content, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive_of(data, GZIP), Origin(data), None)
        with pytest.raises(ArtifactError, match=message):
            unpacked.index(LONG)


@BOTH
def test_an_empty_archive_has_no_file(tmp_path: Path, encoding: Encoding) -> None:
    data = packed(b"", encoding)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive_of(data, encoding), Origin(data), None)
        assert unpacked.index(LONG).entries == ()


def test_an_empty_blob_is_no_gzip(tmp_path: Path) -> None:
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive_of(b"", GZIP), Origin(b""), None)
        with pytest.raises(ArtifactError, match="begins with nothing"):
            unpacked.index(LONG)


def test_a_reader_of_a_registry_that_lost_the_blob_gets_an_error_and_may_try_again(
    tmp_path: Path,
) -> None:
    data = packed(tar(FILES), GZIP)
    origin = Origin(data, limit=1 << 20)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive_of(data, GZIP), origin, None)
        assert read(unpacked, 512, 100) == FILES["a.bin"][:100]
        late = Reading(unpacked, 2 << 20, 100)
        origin.gone = True
        origin.allow()
        with pytest.raises(FetchError, match="404"):
            late.result()
        assert read(unpacked, 512, 100) == FILES["a.bin"][:100]  # it is there
        with pytest.raises(ModelpackError, match="404"):
            unpacked.index(LONG)
        until(lambda: not node.fetcher._busy())  # what was asked before may fail still
        origin.gone = False
        assert read(unpacked, (2 << 20), 100) == tar(FILES)[2 << 20 :][:100]
        until(lambda: unpacked.done)


def test_bytes_are_fetched_through_another_model_where_one_fails(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    gone = Origin(data)
    gone.gone = True
    archive = archive_of(data, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, gone, None)
        until(lambda: bool(gone.asked))
        node.unpacker.claim(archive, Origin(data), None)
        until(lambda: unpacked.done)


def test_a_disk_that_takes_no_bytes_is_an_error_until_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = packed(tar(FILES), GZIP)
    full = threading.Event()
    full.set()
    append = Content.append

    def appended(self: Content, piece: bytes) -> None:
        if full.is_set() and self.size > 1 << 20:
            raise CacheError("cannot write data of the cache: No space left on device")
        append(self, piece)

    monkeypatch.setattr(Content, "append", appended)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive_of(data, GZIP), Origin(data), None)
        with pytest.raises(FetchError, match="No space left"):
            read(unpacked, 3 << 20, 100)
        full.clear()
        assert read(unpacked, 3 << 20, 100) == tar(FILES)[3 << 20 :][:100]
        until(lambda: unpacked.done)
        assert read(unpacked, 512, 3 << 20) == FILES["a.bin"]


def test_what_the_disk_does_not_give_is_unpacked_again_with_the_next_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = packed(tar(FILES), GZIP)
    archive = archive_of(data, GZIP)
    path = tmp_path / "unpacked" / "sha256" / archive.descriptor.digest[7:] / "data"

    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, Origin(data), None)
        until(lambda: unpacked.done)
        # Else it is still the thread's, and the next who asks gets the same again.
        until(lambda: not node.unpacker._tasks[archive.descriptor.digest].busy)
        os.utime(path, (1, 1))
        monkeypatch.setattr(os, "preadv", fails)
        with pytest.raises(FetchError, match="unpacked again with the next mount"):
            read(unpacked, 512, 100)
        monkeypatch.undo()
        node.unpacker.release(unpacked)
        again = node.unpacker.claim(archive, Origin(data), None)
        assert read(again, 512, 3 << 20) == FILES["a.bin"]
        assert path.stat().st_mtime > 1


def test_a_layer_nobody_has_any_more_is_not_unpacked_further(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    origin = Origin(data, limit=1 << 20)
    archive = archive_of(data, GZIP)
    path = tmp_path / "unpacked" / "sha256" / archive.descriptor.digest[7:] / "data"
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, origin, None)
        until(lambda: unpacked.passed > 0)
        node.unpacker.release(unpacked)
        until(lambda: path.stat().st_size == 0)
        with pytest.raises(FetchError, match="let go of"):
            read(unpacked, 512, 100)
        origin.allow()
        fresh = node.unpacker.claim(archive, origin, None)
        assert len(fresh.index(LONG).entries) == 3


def test_a_layer_that_is_to_go_on_does_so_for_the_next_who_asks(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    origin = Origin(data, limit=1 << 20)
    archive = archive_of(data, GZIP)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive, origin, None)
        node.unpacker.release(unpacked, go_on=True)
        origin.allow()
        until(lambda: unpacked.done)
        until(lambda: not node.unpacker._tasks)
        assert node.unpacker.claim(archive, Origin(b""), None).done


def test_the_layer_that_a_reader_waits_for_comes_first(tmp_path: Path) -> None:
    layers = [packed(tar({"a": noise(2 << 20, seed)}), GZIP) for seed in range(4)]
    origins = [Origin(data, limit=0) for data in layers]
    with rooms(tmp_path, UnpackOptions(threads=1)) as node:
        unpacked = [
            node.unpacker.claim(archive_of(data, GZIP), origin, None)
            for data, origin in zip(layers, origins, strict=True)
        ]
        until(lambda: bool(origins[0].asked))
        wanted = Reading(unpacked[3], 512, 100)
        origins[3].allow()
        origins[0].allow(1 << 20)
        assert wanted.result() == noise(2 << 20, 3)[:100]
        assert origins[1].asked == origins[2].asked == []
        for origin in origins:
            origin.allow()
        until(lambda: all(one.done for one in unpacked))


def test_closing_answers_who_waits(tmp_path: Path) -> None:
    data = packed(tar(FILES), GZIP)
    origin = Origin(data, limit=1 << 20)
    with rooms(tmp_path) as node:
        unpacked = node.unpacker.claim(archive_of(data, GZIP), origin, None)
        late = Reading(unpacked, 4 << 20, 100)
        node.unpacker.close()
        with pytest.raises(FetchError):
            late.result()
        with pytest.raises(UnpackError, match="closed"):
            node.unpacker.claim(archive_of(data, GZIP), origin, None)
        origin.allow()


def test_memory_stays_bounded_while_a_large_layer_passes(tmp_path: Path) -> None:
    data = packed(tar({"a": bytes(96 << 20)}), Encoding.TAR_ZSTD)
    tracemalloc.start()
    try:
        with rooms(tmp_path) as node:
            archive = archive_of(data, Encoding.TAR_ZSTD)
            unpacked = node.unpacker.claim(archive, Origin(data), None)
            until(lambda: unpacked.done)
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20
