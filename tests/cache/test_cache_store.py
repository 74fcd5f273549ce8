"""The directory of all blobs: sharing, flushing, locking."""

from __future__ import annotations

import gc
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from snapshotter.artifact.digest import digest_of
from snapshotter.cache.blob import Blob
from snapshotter.cache.errors import CacheError
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.units import ByteSize, Seconds

CONTENT = os.urandom(100_000)
DIGEST = digest_of(CONTENT)
NEVER = CacheOptions(flush_interval=Seconds(3600))


@pytest.fixture
def store(tmp_path):
    store = BlobStore(tmp_path / "cache", NEVER)
    yield store
    store.close()


def durable(root: Path) -> int:
    """Bytes that a successor would find, without asking for the lock."""
    return Blob(root / "blobs/sha256" / DIGEST[7:], DIGEST, len(CONTENT)).present_bytes


def test_everybody_gets_the_same_blob(store) -> None:
    blob = store.open(DIGEST, len(CONTENT))
    assert store.open(DIGEST, len(CONTENT)) is blob
    assert store.blobs() == [blob]


def test_two_sizes_of_one_digest_cannot_both_be_right(store) -> None:
    blob = store.open(DIGEST, len(CONTENT))
    with pytest.raises(CacheError, match="one of the two artifacts is wrong"):
        store.open(DIGEST, 5)
    assert blob.size == len(CONTENT)


def test_lives_where_it_is_said_to(store) -> None:
    path = store.root / "blobs" / "sha256" / DIGEST[7:]
    blob = store.open(DIGEST, 1)
    assert blob.path == path / "data"
    blob.write(0, b"x")
    for directory in (store.root, path):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_closing_makes_everything_durable(tmp_path) -> None:
    store = BlobStore(tmp_path, NEVER)
    store.open(DIGEST, len(CONTENT)).write(0, CONTENT[:10])
    store.close()
    store.close()
    assert durable(tmp_path) == 10


def test_bytes_not_yet_durable_are_not_forgotten_with_their_last_user(store) -> None:
    store.open(DIGEST, len(CONTENT)).write(0, CONTENT[:10])
    gc.collect()
    assert store.open(DIGEST, len(CONTENT)).present_bytes == 10


def test_a_blob_nobody_uses_takes_no_descriptor(store) -> None:
    store.open(DIGEST, len(CONTENT)).write(0, CONTENT[:10])
    store.flush()
    assert store.blobs() == []
    assert store.open(DIGEST, len(CONTENT)).present_bytes == 10


def becomes_durable(root: Path, wanted: int) -> bool:
    pause = threading.Event()
    return any(durable(root) == wanted or pause.wait(0.02) for _ in range(3000))


def test_bytes_become_durable_with_time(tmp_path) -> None:
    store = BlobStore(tmp_path, CacheOptions(flush_interval=Seconds(0.05)))
    blob = store.open(DIGEST, len(CONTENT))
    blob.write(0, CONTENT[:10])
    assert becomes_durable(tmp_path, 10)
    store.close()


def test_bytes_become_durable_when_they_are_many(tmp_path) -> None:
    options = CacheOptions(flush_interval=Seconds(3600), flush_bytes=ByteSize(50_000))
    store = BlobStore(tmp_path, options)
    blob = store.open(DIGEST, len(CONTENT))
    blob.write(0, CONTENT[:60_000])
    assert becomes_durable(tmp_path, 60_000)
    store.close()


def test_a_complete_blob_becomes_durable_at_once(store) -> None:
    blob = store.open(DIGEST, len(CONTENT))
    blob.write(0, CONTENT)
    assert becomes_durable(store.root, len(CONTENT))


def test_what_all_blobs_take_of_the_disk_is_counted(store) -> None:
    assert store.allocated() == 0
    blob = store.open(DIGEST, 1 << 30)
    blob.write(1 << 20, CONTENT)
    blob.flush()
    assert len(CONTENT) <= store.allocated() == blob.allocated_bytes < 1 << 20


def test_a_second_daemon_is_told_who_has_the_cache(store) -> None:
    program = (
        "import sys, pathlib\n"
        "from snapshotter.cache.store import BlobStore, CacheOptions\n"
        "BlobStore(pathlib.Path(sys.argv[1]), CacheOptions())\n"
    )
    second = subprocess.run(
        [sys.executable, "-c", program, store.root], capture_output=True, text=True
    )
    last = second.stderr.strip().splitlines()[-1]
    assert f"is in use by another process (pid {os.getpid()})" in last
    assert "another root" in last


def test_a_closed_cache_can_be_opened_again(tmp_path) -> None:
    store = BlobStore(tmp_path, NEVER)
    store.close()
    with pytest.raises(CacheError, match="is closed"):
        store.open(DIGEST, 1)
    BlobStore(tmp_path, NEVER).close()


def test_a_root_that_is_a_file_is_named(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match=r"cannot use the cache .*file.*set another root"):
        BlobStore(tmp_path / "file", NEVER)


def test_a_root_that_takes_no_files_is_named() -> None:
    with pytest.raises(CacheError, match=r"cannot use the cache /proc.*set another root"):
        BlobStore(Path("/proc/self/cache"), NEVER)
