"""Bytes that go: from one blob, from a store, and never under who reads them."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.cache import holes
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import CacheError, CacheFull, Unreadable
from snapshotter.cache.eviction import Kind
from snapshotter.cache.evictor import Evictor, Nobody
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.units import Capacity, Seconds
from snapshotter.unpack.content import Content

MIB = 1 << 20
SIZE = 4 * MIB
CONTENT = os.urandom(SIZE)
DIGEST = digest_of(CONTENT)


@pytest.fixture
def blob(tmp_path) -> Blob:
    """Complete and durable."""
    return filled(tmp_path)


def filled(directory: Path) -> Blob:
    blob = Blob(directory, DIGEST, SIZE)
    blob.write(0, CONTENT)
    blob.flush()
    return blob


def again(blob: Blob) -> Blob:
    return Blob(blob.path.parent, DIGEST, SIZE)


def test_evicted_bytes_are_not_there_and_take_no_room(blob) -> None:
    before, losses = blob.allocated_bytes, blob.losses
    assert blob.evict([(MIB, 3 * MIB)])
    assert list(blob.present) == [(0, MIB), (3 * MIB, SIZE)]
    assert list(again(blob).present) == [(0, MIB), (3 * MIB, SIZE)]
    assert not blob.dirty  # to write the map again would make it look used
    assert blob.allocated_bytes <= before - 2 * MIB
    assert blob.losses > losses
    blob.write(MIB, CONTENT[MIB : 3 * MIB])
    assert blob.verify()


def test_an_evicted_blob_that_was_verified_is_not_any_more(blob) -> None:
    assert blob.verify()
    blob.flush()
    assert blob.evict([(0, 1)])
    assert blob.state is BlobState.PARTIAL
    blob.write(0, CONTENT[:1])
    assert blob.state is BlobState.COMPLETE
    assert blob.lend() is None
    assert blob.vouched(0, 10) is None


def test_what_was_not_durable_yet_is_kept_by_an_eviction(tmp_path) -> None:
    blob = Blob(tmp_path, DIGEST, SIZE)
    blob.write(0, CONTENT[:MIB])
    blob.flush()
    blob.write(2 * MIB, CONTENT[2 * MIB : 3 * MIB])
    assert blob.evict([(0, MIB // 2)])
    assert list(again(blob).present) == [(MIB // 2, MIB)]
    blob.flush()
    assert list(again(blob).present) == [(MIB // 2, MIB), (2 * MIB, 3 * MIB)]


def test_only_what_is_right_and_durable_is_lent(tmp_path) -> None:
    blob = Blob(tmp_path, DIGEST, SIZE)
    blob.write(0, CONTENT)
    assert blob.lend() is None
    blob.verify()
    assert blob.lend() is None
    blob.flush()
    lent = blob.lend()
    assert lent is not None
    os.close(lent)


def test_a_lent_file_stays_until_nobody_has_it(blob) -> None:
    blob.verify()
    lent = blob.lend()
    assert lent is not None
    passed_on = os.dup(lent)
    assert not blob.evict([(0, SIZE)])
    os.close(lent)
    assert not blob.evict([(0, SIZE)])
    assert os.pread(passed_on, SIZE, 0) == CONTENT
    os.close(passed_on)
    assert blob.evict([(0, SIZE)])


def test_when_the_map_cannot_be_written_it_goes_rather_than_claim_a_hole(blob, monkeypatch) -> None:
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target.name == "map":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert blob.evict([(MIB, SIZE)])
    assert not (blob.path.parent / "map").exists()
    assert list(blob.present) == [(0, MIB)]
    monkeypatch.undo()
    blob.flush()
    assert list(again(blob).present) == [(0, MIB)]


def test_a_file_system_that_makes_no_holes_costs_bytes_but_no_truth(blob, monkeypatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr("snapshotter.cache.files.punch", refuse)
    with pytest.raises(CacheError, match=r"cannot evict .*not supported"):
        blob.evict([(0, MIB)])
    assert not blob.has(0, 1)
    assert not again(blob).has(0, 1)


def test_writers_and_an_evictor_beside_each_other_leave_only_right_bytes(tmp_path) -> None:
    blob = filled(tmp_path)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for start in range(0, SIZE, 100_000):
                try:
                    blob.write(start, CONTENT[start : start + 100_000])
                except CacheError:
                    continue
            blob.flush()

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    for n in range(60):
        start = n * 67_001 % SIZE
        blob.evict([(start, min(SIZE, start + 900_000))])
        for first, end in blob.present:
            losses = blob.losses
            data = blob.pread(first, end - first)
            assert blob.losses != losses or data == CONTENT[first:end]
    stop.set()
    for writer in writers:
        writer.join()
    for first, end in again(blob).present:
        assert blob.pread(first, end - first) == CONTENT[first:end]


def test_a_hole_reads_as_zeros(tmp_path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("r+b") as file:
        holes.punch(file.fileno(), 4096, 8192)
        with pytest.raises(OSError, match="Invalid argument"):
            holes.punch(file.fileno(), 5, 5)
    assert path.read_bytes() == CONTENT[:4096] + bytes(4096) + CONTENT[8192:]


# What the disk does not give


def test_a_lost_blob_begins_anew_in_another_file(blob) -> None:
    blob.verify()
    blob.flush()
    lent = blob.lend()
    assert lent is not None
    blob.lose()
    assert blob.present_bytes == 0
    assert blob.void
    with pytest.raises(CacheError, match="takes no bytes"):
        blob.write(0, CONTENT[:10])
    blob.flush()
    assert again(blob).present_bytes == 0
    blob.write(0, CONTENT[:10])
    assert blob.pread(0, 10) == CONTENT[:10]
    assert os.pread(lent, SIZE, 0) == CONTENT  # who has it open reads on
    os.close(lent)


def test_a_map_the_disk_does_not_give_counts_for_nothing(blob, monkeypatch) -> None:
    real = os.open

    def fails(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if str(path).endswith("/map"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", fails)
    found = again(blob)
    assert found.present_bytes == 0
    found.write(0, CONTENT)
    assert found.verify()


def test_reading_what_the_disk_does_not_give_is_an_error_of_its_own(blob, monkeypatch) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(Unreadable, match=r"cannot read .*Input/output error"):
        blob.pread(0, 10)


# A whole cache


class Users(Nobody):
    def __init__(self) -> None:
        self.pins: set[Digest] = set()
        self.kernel: set[Digest] = set()
        self.told: list[Digest] = []

    def pinned(self) -> set[Digest]:
        return self.pins

    def reads_itself(self, blob: Blob) -> bool:
        return blob.digest in self.kernel

    def withdraw(self, blob: Blob) -> bool:
        return blob.digest not in self.kernel

    def evicted(self, blob: Blob) -> None:
        self.told.append(blob.digest)


class Cache:
    def __init__(self, root: Path, quota: str, in_use: float = 300) -> None:
        self.users = Users()
        self.store = BlobStore(
            root,
            CacheOptions(quota=Capacity(quota), keep_free=Capacity("0%"), in_use=Seconds(in_use)),
        )
        self.evictor = Evictor(self.store, self.users, huge=8 * MIB)

    def fill(self, number: int, *, size: int = MIB, used_at: float | None = None) -> Digest:
        """A blob that is there whole, and that nobody uses."""
        content = bytes([number]) * size
        digest = digest_of(content)
        blob = self.store.open(digest, size)
        blob.write(0, content)
        blob.flush()
        del blob
        self.store.flush()
        # The store's own thread may be flushing it too, and holds it as long.
        until(lambda: digest not in {one.digest for one in self.store.blobs()})
        self.store.note_use(digest, Kind.BLOB, number if used_at is None else used_at)
        return digest

    def there(self, digest: Digest) -> bool:
        return (self.store.directory(digest) / "data").exists()

    def close(self) -> None:
        self.evictor.close()
        self.store.close()


@pytest.fixture
def cache(tmp_path) -> Iterator[Cache]:
    cache = Cache(tmp_path / "cache", "4MiB", in_use=0)
    yield cache
    cache.close()


def until(holds) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_cache_that_fills_up_lets_go_of_what_was_used_least_recently(cache) -> None:
    first = [cache.fill(number) for number in range(1, 4)]
    cache.fill(4, used_at=time.time())
    until(lambda: not cache.there(first[0]))
    assert cache.store.allocated() <= 4 * MIB * 0.9
    assert cache.there(first[2])
    until(lambda: cache.evictor.evicted_bytes >= MIB)


def test_a_full_cache_takes_nothing_until_there_is_room(tmp_path) -> None:
    cache = Cache(tmp_path / "cache", "4MiB")
    cache.evictor.close()  # nobody makes room
    blob = cache.store.open(DIGEST, SIZE)
    blob.write(0, CONTENT)
    other = cache.store.open(digest_of(b"other"), 5)
    with pytest.raises(CacheFull):
        other.write(0, b"other")
    assert blob.present_bytes == SIZE
    assert cache.store.allocated() <= SIZE
    blob.evict([(0, MIB)])
    other.write(0, b"other")
    cache.store.close()


def test_pinned_blobs_and_those_the_kernel_reads_stay(cache) -> None:
    pinned, read, other = (cache.fill(number) for number in range(1, 4))
    blob = cache.store.open(read, MIB)
    cache.users.pins, cache.users.kernel = {pinned}, {read}
    cache.store.space.refused()
    blob.used_at = 0
    more = cache.store.open(DIGEST, SIZE)
    with pytest.raises(CacheFull):
        more.write(0, CONTENT)
    until(lambda: not cache.there(other))
    time.sleep(0.1)
    assert cache.there(pinned)
    assert blob.present_bytes == MIB


def test_a_mounted_blob_that_is_idle_goes_only_when_bytes_were_refused(cache) -> None:
    mounted = cache.store.open(cache.fill(1, size=3 * MIB + MIB // 2), 3 * MIB + MIB // 2)
    cache.store.note_use(mounted.digest, Kind.BLOB, 1)
    mounted.used_at = 1
    extra = cache.store.open(DIGEST, SIZE)
    extra.write(0, CONTENT[: MIB // 2])  # over the high water mark, but not refused
    assert cache.evictor.make_room() == []
    assert mounted.present_bytes == 3 * MIB + MIB // 2
    with pytest.raises(CacheFull):
        extra.write(MIB, CONTENT[MIB : 2 * MIB])
    until(lambda: cache.users.told == [mounted.digest])
    until(lambda: mounted.present_bytes == 0)


def test_of_a_huge_blob_the_end_goes_and_the_rest_can_be_read(tmp_path) -> None:
    cache = Cache(tmp_path / "cache", "24MiB")
    huge = cache.fill(7, size=23 * MIB + 5, used_at=1)
    # A thread that is just writing down what was used holds the blob for a moment.
    until(lambda: cache.evictor.make_room() or cache.store.allocated() < 23 * MIB)
    cache.store.flush()
    assert cache.store.allocated() < 23 * MIB
    # What was done to it does not make it look used.
    assert max(one.used_at for one in cache.store.candidates()) == 1
    blob = cache.store.open(huge, 23 * MIB + 5)
    (there,) = blob.present
    assert there[0] == 0
    assert 20 * MIB < there[1] < 23 * MIB
    assert blob.pread(0, there[1]) == bytes([7]) * there[1]
    cache.close()


def test_a_dry_run_frees_nothing_and_says_what_would_go(cache) -> None:
    old = cache.fill(1)
    everything = {(Kind.BLOB, old): ("a model",)}
    (would,) = cache.evictor.free(everything, dry_run=True)
    assert cache.there(old)
    assert (would.digest, would.reason, would.models) == (old, "unwanted", ("a model",))
    assert cache.evictor.free(everything) == [would]
    assert not cache.there(old)
    assert cache.evictor.free(everything) == []


def test_what_is_in_use_is_not_removed_whoever_wants_it_gone(cache) -> None:
    blob = cache.store.open(cache.fill(1), MIB)
    assert cache.evictor.free({(Kind.BLOB, blob.digest): ()}) == []
    assert not cache.store.remove(blob.digest)
    blob.verify()
    blob.flush()
    lent = blob.lend()
    assert lent is not None
    digest = blob.digest
    del blob
    cache.store.flush()
    assert cache.store.lent(digest)
    assert not cache.store.remove(digest)
    os.close(lent)
    until(lambda: cache.store.remove(digest))  # a flush may hold it for a moment
    assert not cache.there(digest)
    assert cache.store.remove(digest)  # it is gone already


def test_an_unpacked_layer_is_counted_and_goes_when_nobody_has_it(cache) -> None:
    directory = cache.store.directory(DIGEST, Kind.UNPACKED)
    held = cache.store.hold(DIGEST)
    content = Content(directory, DIGEST, cache.store.space, held)
    del held
    content.append(CONTENT[:MIB])
    content.finish(Digest(f"sha256:{hashlib.sha256(CONTENT[:MIB]).hexdigest()}"))
    assert cache.store.allocated() >= MIB
    (one,) = cache.store.candidates()
    assert (one.kind, one.mounted) == (Kind.UNPACKED, True)
    assert not cache.store.remove(DIGEST, Kind.UNPACKED)
    del content
    assert cache.store.remove(DIGEST, Kind.UNPACKED)
    assert not directory.exists()


def test_what_a_crash_left_half_removed_is_gone_after_the_next_start(tmp_path) -> None:
    cache = Cache(tmp_path / "cache", "4MiB")
    digest = cache.fill(1)
    cache.close()
    aside = tmp_path / "cache" / "removed" / "left"
    aside.parent.mkdir(exist_ok=True)
    cache.store.directory(digest).rename(aside)
    Cache(tmp_path / "cache", "4MiB").close()
    assert not aside.exists()


def fill_up(blob: Blob) -> None:
    for start in range(0, SIZE, MIB // 4):
        blob.write(start, CONTENT[start : start + MIB // 4])


def takes(blob: Blob, start: int) -> bool:
    try:
        blob.write(start, CONTENT[start:])
    except CacheFull:
        return False
    return True


def test_a_disk_that_is_really_full_refuses_and_is_made_room_on(tmp_path) -> None:
    """An ext4 of its own, filled by somebody else behind our back."""
    image, root = tmp_path / "image", tmp_path / "disk"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(24 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, root], check=True)
    try:
        cache = Cache(root / "cache", "100%", in_use=0)
        old = cache.fill(1, size=2 * MIB)
        with (root / "somebody else's").open("wb") as other:
            os.posix_fallocate(
                other.fileno(), 0, os.statvfs(root).f_bavail * os.statvfs(root).f_frsize - MIB
            )
        blob = cache.store.open(DIGEST, SIZE)
        with pytest.raises(CacheFull):
            fill_up(blob)
        until(lambda: not cache.there(old))
        until(lambda: takes(blob, SIZE - MIB))
        cache.evictor.close()  # it may still be at it
        for start, end in blob.present:
            assert blob.pread(start, end - start) == CONTENT[start:end]
        blob.flush()
        cache.close()
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)
