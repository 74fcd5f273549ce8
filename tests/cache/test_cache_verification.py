"""Hashing that goes on where it was, and what a blob knows of its bytes to be right."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from snapshotter.artifact.digest import digest_of
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import CacheError, DigestMismatch
from snapshotter.cache.verification import Verification

CONTENT = random.Random(3).randbytes(300_000)
DIGEST = digest_of(CONTENT)
ALL = len(CONTENT)


def opened(directory: Path) -> Blob:
    return Blob(directory, DIGEST, ALL)


def lose(blob: Blob, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk does that says so at the next fdatasync(2)."""

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", fails)
        with pytest.raises(CacheError):
            blob.flush()


def test_hashing_follows_the_bytes_that_are_there_and_reads_each_once(
    tmp_path, monkeypatch
) -> None:
    blob, hashed = opened(tmp_path), Verification(DIGEST, ALL)
    read = []
    original = blob.readinto
    monkeypatch.setattr(
        blob, "readinto", lambda offset, view: read.append(offset) or original(offset, view)
    )
    for start in range(0, ALL, 100_000):
        assert hashed.advance(blob, ALL) == 0
        blob.write(start, CONTENT[start : start + 100_000])
        assert hashed.advance(blob, 60_000) == 60_000
        assert hashed.advance(blob, ALL) == 40_000
        assert hashed.position == start + 100_000
    assert hashed.whole
    assert read == sorted(set(read))
    assert blob.conclude(hashed)
    assert blob.state is BlobState.VERIFIED


def test_what_lies_behind_a_gap_waits(tmp_path) -> None:
    blob, hashed = opened(tmp_path), Verification(DIGEST, ALL)
    blob.write(100_000, CONTENT[100_000:])
    assert hashed.advance(blob, ALL) == 0
    blob.write(0, CONTENT[:100_000])
    assert hashed.advance(blob, ALL) == ALL
    assert blob.conclude(hashed)


def test_after_a_loss_hashing_begins_anew(tmp_path, monkeypatch) -> None:
    blob, hashed = opened(tmp_path), Verification(DIGEST, ALL)
    blob.write(0, CONTENT)
    hashed.advance(blob, 50_000)
    lose(blob, monkeypatch)
    assert hashed.advance(blob, ALL) == 0
    assert hashed.position == 0
    blob.write(0, CONTENT)
    hashed.advance(blob, ALL)
    assert blob.conclude(hashed)


def test_a_hash_of_bytes_that_were_lost_proves_nothing(tmp_path, monkeypatch) -> None:
    blob, hashed = opened(tmp_path), Verification(DIGEST, ALL)
    blob.write(0, CONTENT)
    hashed.advance(blob, ALL)
    lose(blob, monkeypatch)
    blob.write(0, CONTENT)
    assert not blob.conclude(hashed)
    assert blob.state is BlobState.COMPLETE


def test_a_file_that_somebody_cut_off_is_no_endless_hash(tmp_path) -> None:
    blob, hashed = opened(tmp_path), Verification(DIGEST, ALL)
    blob.write(0, CONTENT)
    os.truncate(blob.path, 1000)
    with pytest.raises(CacheError, match="ends at 1000 of 300000"):
        hashed.advance(blob, ALL)


def test_bytes_that_are_there_are_never_written_again(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(100, CONTENT[100:200])
    blob.write(0, bytes(300))
    assert blob.pread(0, 300) == bytes(100) + CONTENT[100:200] + bytes(100)


def test_a_range_is_known_to_be_right_once_somebody_vouches_for_it(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:1000])
    assert blob.vouched(0, 1000) is None
    assert blob.vouch(0, 1000, blob.losses)
    assert blob.vouched(10, 990) == blob.losses
    assert blob.vouched(10, 1001) is None


def test_nobody_can_vouch_for_what_is_not_there(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:1000])
    assert not blob.vouch(0, 1001, blob.losses)
    assert blob.vouched(0, 1000) is None


def test_nobody_can_vouch_for_what_was_lost_meanwhile(tmp_path, monkeypatch) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:1000])
    before = blob.losses
    lose(blob, monkeypatch)
    blob.write(0, CONTENT[:1000])
    assert not blob.vouch(0, 1000, before)


def test_after_a_loss_nothing_is_known_to_be_right(tmp_path, monkeypatch) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:1000])
    blob.flush()
    blob.vouch(0, 1000, blob.losses)
    blob.write(1000, CONTENT[1000:2000])
    lose(blob, monkeypatch)
    assert blob.has(0, 1000)
    assert blob.vouched(0, 1000) is None


def test_a_dropped_range_is_gone_also_from_the_disk_and_can_come_again(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:1000] + bytes(1000) + CONTENT[2000:])
    blob.flush()
    blob.vouch(0, 1000, blob.losses)
    before = blob.losses
    blob.drop(1000, 2000)
    assert blob.losses != before
    assert [*blob.present] == [*opened(tmp_path).present] == [(0, 1000), (2000, ALL)]
    assert blob.vouched(0, 1000) is not None
    blob.write(1000, CONTENT[1000:2000])
    assert blob.verify()


def test_a_verified_blob_that_lost_a_range_is_not_verified_any_more(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT)
    blob.verify()
    blob.flush()
    blob.drop(0, 10)
    assert blob.state is opened(tmp_path).state is BlobState.PARTIAL


def test_a_verified_blob_that_rotted_shows_no_holes_to_who_reads_its_file(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT)
    blob.verify()
    blob.flush()
    lent = blob.lend()
    assert lent is not None
    rotten = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
    blob.path.write_bytes(rotten)
    hashed = Verification(DIGEST, ALL)
    hashed.advance(blob, ALL)
    with pytest.raises(DigestMismatch):
        blob.conclude(hashed)
    assert blob.state is BlobState.BAD
    assert blob.present_bytes == 0
    # The kernel may be reading the file by itself: zeros would look like weights.
    assert os.pread(lent, ALL, 0) == rotten
    os.close(lent)
    assert opened(tmp_path).present_bytes == 0
