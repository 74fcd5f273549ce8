"""Hashing a cache again: what is found, and what becomes of it."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.artifact.digest import digest_of
from snapshotter.cache.audit import Finding, Target, Verdict, audit, everything, on_disk
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore

CHUNK = 64 << 10
CONTENT = random.Random(2).randbytes(4 * CHUNK + 9)
DIGEST = digest_of(CONTENT)
ALL = len(CONTENT)
CHUNKS = ChunkDigests(
    ALL,
    CHUNK,
    b"".join(hashlib.sha256(CONTENT[at : at + CHUNK]).digest() for at in range(0, ALL, CHUNK)),
)
PLAIN, CHUNKED = Target(DIGEST, ALL), Target(DIGEST, ALL, CHUNKS)
TARGETS = pytest.mark.parametrize("target", [PLAIN, CHUNKED], ids=["no list", "list"])


@pytest.fixture
def store(tmp_path) -> Iterator[BlobStore]:
    store = BlobStore(tmp_path / "cache", CacheOptions())
    yield store
    store.close()


@pytest.fixture
def blob(store) -> Blob:
    return store.open(DIGEST, ALL)


def rot(blob: Blob, at: int) -> None:
    """As a disk does, behind our back."""
    with open(blob.path, "r+b") as file:
        file.seek(at)
        file.write(bytes([CONTENT[at] ^ 1]))


def run(store: BlobStore, target: Target, wrong: list[Blob] | None = None) -> Finding:
    told = 0
    steps = audit(store, target, lambda blob, _: (wrong if wrong is not None else []).append(blob))
    while True:
        try:
            told += next(steps)
        except StopIteration as done:
            found: Finding = done.value
            assert told == found.checked
            return found


@TARGETS
def test_a_right_blob_is_found_verified(store, blob, target) -> None:
    blob.write(0, CONTENT)
    assert run(store, target) == Finding(DIGEST, ALL, ALL, ALL, 0, Verdict.VERIFIED)
    assert blob.state is BlobState.VERIFIED


@TARGETS
def test_a_verified_blob_that_rotted_is_found_bad(store, blob, target) -> None:
    blob.write(0, CONTENT)
    blob.verify()
    rot(blob, CHUNK + 5)
    wrong: list[Blob] = []
    found = run(store, target, wrong)
    assert (found.verdict, found.checked, wrong) == (Verdict.BAD, ALL, [blob])
    if target is CHUNKED:
        assert found.dropped == CHUNK
        assert blob.missing(0, ALL) == [(CHUNK, 2 * CHUNK)]
        blob.write(CHUNK, CONTENT[CHUNK : 2 * CHUNK])
        assert run(store, target).verdict is Verdict.VERIFIED
    else:
        assert found.dropped == ALL
        assert blob.state is BlobState.BAD


def test_of_a_partial_blob_nothing_can_be_said_without_a_list(store, blob) -> None:
    blob.write(0, CONTENT[: 2 * CHUNK])
    rot(blob, 5)
    assert run(store, PLAIN) == Finding(DIGEST, ALL, 2 * CHUNK, 0, 0, Verdict.PARTIAL)


def test_of_a_partial_blob_whole_chunks_are_checked_with_a_list(store, blob) -> None:
    blob.write(0, CONTENT[: 2 * CHUNK + 100])
    blob.write(4 * CHUNK, CONTENT[4 * CHUNK :])
    found = run(store, CHUNKED)
    assert (found.verdict, found.checked) == (Verdict.PARTIAL, 2 * CHUNK + 9)
    assert blob.vouched(0, 2 * CHUNK) is not None
    rot(blob, CHUNK)
    found = run(store, CHUNKED)
    assert (found.verdict, found.dropped) == (Verdict.BAD, CHUNK)
    assert blob.missing(0, 2 * CHUNK) == [(CHUNK, 2 * CHUNK)]


def test_a_data_file_that_was_cut_off_is_unreadable_and_nothing_raises(store, blob) -> None:
    blob.write(0, CONTENT)
    with open(blob.path, "r+b") as file:
        file.truncate(10)
    found = run(store, PLAIN)
    assert found.verdict is Verdict.UNREADABLE
    assert f"ends at 10 of {ALL}" in found.detail


def test_only_what_is_on_the_disk_is_looked_at(store, blob) -> None:
    other = Target(digest_of(b"other"), 5)
    assert on_disk(store, [PLAIN, other]) == []
    blob.write(0, CONTENT[:1])
    assert on_disk(store, [PLAIN, other]) == [PLAIN]
    assert not store.directory(other.digest).exists()
    assert everything(store) == [PLAIN]
