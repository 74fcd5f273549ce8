"""One blob: bytes in and out, what survives, and what a wrong byte does."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import CacheError, DigestMismatch

CONTENT = os.urandom(300_000)
DIGEST = digest_of(CONTENT)


def opened(directory: Path, content: bytes = CONTENT) -> Blob:
    directory.mkdir(exist_ok=True)
    return Blob(directory, digest_of(content), len(content))


def test_begins_with_nothing_as_a_sparse_file_of_full_size(tmp_path) -> None:
    blob = Blob(tmp_path, DIGEST, 10 << 30)
    blob.write(0, b"")
    assert blob.allocated_bytes == 0
    os.fstat(blob.fileno())
    assert blob.path.stat().st_size == 10 << 30
    assert blob.allocated_bytes == 0
    assert blob.state is BlobState.PARTIAL
    assert blob.missing(0, 100) == [(0, 100)]


def test_gives_back_what_was_written(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(1000, CONTENT[1000:5000])
    assert blob.has(1000, 5000)
    assert not blob.has(999, 5000)
    assert blob.first_gap(2000, 6000) == (5000, 6000)
    assert blob.pread(1000, 4000) == CONTENT[1000:5000]
    assert blob.present_bytes == 4000
    assert list(blob.present) == [(1000, 5000)]


def test_bytes_that_pass_are_there_like_others(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:200_000], passing=True)
    blob.write(200_000, CONTENT[200_000:], passing=True)
    blob.passed(0, len(CONTENT))
    assert blob.pread(0, len(CONTENT)) == CONTENT
    assert blob.verify()


def test_a_file_system_that_keeps_what_it_writes_takes_bytes_that_pass(
    tmp_path, monkeypatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    blob = opened(tmp_path)
    monkeypatch.setattr(os, "pwritev", refuse)
    blob.write(0, CONTENT, passing=True)
    assert blob.pread(0, len(CONTENT)) == CONTENT


def test_bytes_that_passed_leave_memory_once_they_are_on_the_disk() -> None:
    content = os.urandom(8 << 20)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:  # a disk, where /tmp may be none
        blob = opened(Path(directory), content)
        blob.write(0, content)
        blob.flush()
        while (before := resident_pages(blob)) != len(content) // mmap.PAGESIZE:
            assert blob.pread(0, len(content)) == content  # memory was short meanwhile
        blob.passed(0, len(content))
        assert resident_pages(blob) < before // 2


def resident_pages(blob: Blob) -> int:
    """Pages of the data file that are in memory: mincore(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    with mmap.mmap(blob.fileno(), blob.size) as mapped:
        states = (ctypes.c_ubyte * (blob.size // mmap.PAGESIZE))()
        base = ctypes.c_char.from_buffer(mapped)
        assert libc.mincore(ctypes.byref(base), ctypes.c_size_t(blob.size), states) == 0
        del base
    return sum(state & 1 for state in states)


def test_a_read_past_the_end_is_short(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT)
    assert blob.pread(len(CONTENT) - 10, 100) == CONTENT[-10:]
    assert blob.pread(len(CONTENT) + 10, 100) == b""


@pytest.mark.parametrize("offset", [-1, len(CONTENT) - 3])
def test_bytes_outside_the_blob_are_refused(tmp_path, offset) -> None:
    with pytest.raises(ValueError, match="of a blob of"):
        opened(tmp_path).write(offset, b"1234")


def test_what_was_flushed_is_there_after_reopening(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:1000])
    blob.flush()
    assert not blob.dirty
    blob.write(1000, CONTENT[1000:2000])
    assert blob.dirty
    again = opened(tmp_path)
    assert list(again.present) == [(0, 1000)]
    assert again.pread(0, 1000) == CONTENT[:1000]


def test_files_are_for_their_owner_only(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, b"x")
    blob.flush()
    for name in ("data", "map"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", ["map", "size", "no data"])
def test_what_does_not_fit_together_starts_from_nothing(tmp_path, damage) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT)
    blob.flush()
    match damage:
        case "map":
            (tmp_path / "map").write_bytes((tmp_path / "map").read_bytes()[:-1])
        case "size":
            os.truncate(tmp_path / "data", len(CONTENT) - 1)
        case "no data":
            (tmp_path / "data").unlink()
    again = opened(tmp_path)
    assert again.present_bytes == 0
    assert os.fstat(again.fileno()).st_size == len(CONTENT)
    assert os.fstat(again.fileno()).st_blocks == 0
    assert not (tmp_path / "map").exists()
    assert opened(tmp_path).present_bytes == 0


def test_half_a_new_map_does_not_harm_the_old(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:10])
    blob.flush()
    (tmp_path / "map.new").write_bytes(b"torn")
    assert opened(tmp_path).present_bytes == 10


def test_a_data_file_that_is_a_link_is_refused(tmp_path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "data").symlink_to(tmp_path / "victim")
    with pytest.raises(CacheError, match="no regular file"):
        opened(tmp_path).write(0, CONTENT)
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_right_blob_is_verified_and_stays_so(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT)
    assert blob.state is BlobState.COMPLETE
    assert blob.verify()
    assert blob.state is BlobState.VERIFIED
    blob.flush()
    assert opened(tmp_path).state is BlobState.VERIFIED


def test_a_blob_by_sha512_is_verified_too(tmp_path) -> None:
    blob = Blob(tmp_path, Digest(f"sha512:{hashlib.sha512(CONTENT).hexdigest()}"), len(CONTENT))
    blob.write(0, CONTENT)
    assert blob.verify()


def test_an_empty_blob_is_complete_at_once(tmp_path) -> None:
    blob = opened(tmp_path, b"")
    assert blob.state is BlobState.COMPLETE
    assert blob.verify()
    blob.flush()
    assert opened(tmp_path, b"").state is BlobState.VERIFIED


def test_one_wrong_byte_and_nothing_is_there_any_more(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(200_000, bytes([CONTENT[200_000] ^ 1]))
    blob.write(0, CONTENT)
    blob.flush()
    with pytest.raises(DigestMismatch, match=r"fetched as sha256:.* hash to"):
        blob.verify()
    assert blob.state is BlobState.BAD
    assert blob.present_bytes == 0
    assert not blob.complete
    with pytest.raises(CacheError, match="takes no bytes"):
        blob.write(0, CONTENT)
    assert blob.present_bytes == 0
    blob.flush()
    assert opened(tmp_path).state is BlobState.PARTIAL
    assert opened(tmp_path).present_bytes == 0


def test_what_is_not_complete_cannot_be_verified(tmp_path) -> None:
    with pytest.raises(CacheError, match="not all of it"):
        opened(tmp_path).verify()


def test_verifying_stops_when_told(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT)
    assert not blob.verify(lambda: True)
    assert blob.state is BlobState.COMPLETE


def test_an_artifact_that_lies_about_the_size_does_not_cost_a_verified_blob(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT)
    blob.verify()
    blob.flush()
    with pytest.raises(CacheError, match="verified to have 300000 bytes"):
        Blob(tmp_path, DIGEST, 5)
    assert opened(tmp_path).state is BlobState.VERIFIED


def test_threads_that_write_beside_each_other_lose_nothing(tmp_path) -> None:
    blob = opened(tmp_path)
    step = 1000

    def write(first: int) -> None:
        for offset in range(first, len(CONTENT), 4 * step):
            blob.write(offset, CONTENT[offset : offset + step])
            blob.flush()

    threads = [threading.Thread(target=write, args=(n * step,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blob.verify()
    blob.flush()
    assert opened(tmp_path).pread(0, len(CONTENT)) == CONTENT


def descriptors(below: Path) -> int:
    """Of files below a directory: whatever else this process opens or closes meanwhile."""
    found = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            found += link.readlink().is_relative_to(below)
    return found


def test_a_blob_of_which_nothing_is_read_or_written_takes_no_descriptor_and_no_file(
    tmp_path,
) -> None:
    blobs = [Blob(tmp_path / str(n), DIGEST, len(CONTENT)) for n in range(50)]
    assert all(blob.missing(0, 10) == [(0, 10)] for blob in blobs)
    assert descriptors(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []
    blobs[7].write(0, CONTENT)
    blobs[7].flush()
    assert [path.name for path in tmp_path.iterdir()] == ["7"]
    again = Blob(tmp_path / "7", DIGEST, len(CONTENT))
    assert again.complete
    assert descriptors(tmp_path) == 1
    assert again.pread(0, len(CONTENT)) == CONTENT


def test_the_descriptor_is_closed_with_the_last_user(tmp_path) -> None:
    blob = opened(tmp_path)
    blob.fileno()
    assert descriptors(tmp_path) == 1
    del blob
    assert descriptors(tmp_path) == 0


def test_bytes_the_disk_did_not_keep_are_forgotten(tmp_path, monkeypatch) -> None:
    blob = opened(tmp_path)
    blob.write(0, CONTENT[:1000])
    blob.flush()
    blob.write(1000, CONTENT[1000:2000])

    def fails(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fails)
    with pytest.raises(CacheError, match="did not keep"):
        blob.flush()
    monkeypatch.undo()
    assert list(blob.present) == [(0, 1000)]
    blob.write(1000, CONTENT[1000:2000])
    blob.flush()
    assert list(opened(tmp_path).present) == [(0, 2000)]
