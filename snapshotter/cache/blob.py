"""One blob on the disk: a sparse file of its full size, and the map of what is in it.

The map in memory (``present``) runs ahead of the map on the disk, never the other
way round: `flush` takes a snapshot of the ranges, makes the data durable, and only
then writes that snapshot. So whatever a map claims after a crash is right.
"""

from __future__ import annotations

import enum
import fcntl
import hashlib
import os
import stat
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.cache import durable, holes, presence
from snapshotter.cache.errors import CacheError, DigestMismatch
from snapshotter.cache.quarantine import Quarantine
from snapshotter.cache.ranges import RangeSet

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

log = structlog.get_logger(__name__)

_HASH_STEP = 4 << 20


class BlobState(enum.Enum):
    PARTIAL = "partial"
    COMPLETE = "complete"
    """Every byte is there; nobody has hashed them yet."""
    VERIFIED = "verified"
    BAD = "bad"
    """It was complete and did not hash to its digest. Nothing of it is there any more, and
    nothing is taken, until a pause is over: see :meth:`Blob.forgive`."""


class Blob:
    """A blob by digest. Thread-safe; shared by everybody who reads or fetches it.

    Its descriptor lives exactly as long as the object: closing it any earlier could
    let the kernel give the number to another file under a thread about to write.
    Get one from :class:`~snapshotter.cache.store.BlobStore`.
    """

    def __init__(
        self,
        directory: Path,
        digest: Digest,
        size: int,
        on_change: Callable[[Blob, int], None] = lambda *_: None,
        admit: Callable[[int], None] = lambda _: None,
        quarantine: Quarantine | None = None,
    ) -> None:
        """Open what ``directory`` holds of the blob, or begin with nothing.

        ``on_change`` is called after each change a `flush` would make durable, with
        the bytes just written, from the thread that made it; ``admit`` before each
        write, with its size, to refuse it by raising :class:`CacheFull`. Raises
        :class:`CacheError` when the files cannot be used, or when the cache holds a
        verified blob of this digest and another size.
        """
        self.digest = digest
        self.size = size
        self.path = directory / "data"
        """The data file; sparse, and right only where `has` says so."""
        self._map = directory / "map"
        self._on_change = on_change
        self._admit = admit
        self._quarantine = quarantine or Quarantine(directory / "quarantine")
        self.sources: set[str] = set()
        """Hosts that gave bytes of it, for the record should they turn out wrong."""
        self.used_at = 0.0
        """When bytes of it were last read or written, seconds since the epoch."""
        self._lock = threading.Lock()
        self._flushing = threading.Lock()  # taken before _lock
        # The kernel lets one thread write to a file at a time, and the others spin for
        # their turn (i_rwsem): with a lock of our own they sleep.
        self._writing = threading.Lock()
        try:
            self._fd, known = self._open()
        except OSError as error:
            raise CacheError(f"cannot open {self.path} of the cache: {error.strerror}") from None
        weakref.finalize(self, os.close, self._fd).atexit = False
        self._present = RangeSet(known.ranges if known else ())
        self._durable = self._present.copy()
        self._verified = known is not None and known.verified
        self._bad = self._lost = False
        self._bad_until = 0.0
        self._changes = self._flushed = 0
        self._losses = 0  # a write that began before a loss does not count as there after it

    # What is there

    @property
    def state(self) -> BlobState:
        with self._lock:
            if self._bad:
                return BlobState.BAD
            if self._verified:
                return BlobState.VERIFIED
            complete = self._present.total == self.size
            return BlobState.COMPLETE if complete else BlobState.PARTIAL

    @property
    def complete(self) -> bool:
        """Every byte is there, and not known to be wrong."""
        return self._present.total == self.size and not self._bad

    @property
    def present(self) -> RangeSet:
        """A copy of the ranges that are there."""
        with self._lock:
            return self._present.copy()

    @property
    def present_bytes(self) -> int:
        with self._lock:
            return self._present.total

    @property
    def allocated_bytes(self) -> int:
        """What the data file takes of the disk."""
        return os.fstat(self._fd).st_blocks * 512

    def has(self, start: int, end: int) -> bool:
        """Whether all of ``[start, end)`` is there."""
        return self.first_gap(start, end) is None

    def first_gap(self, start: int, end: int) -> tuple[int, int] | None:
        """The first range inside ``[start, end)`` that is not there."""
        with self._lock:
            return self._present.first_gap(start, end)

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        with self._lock:
            return self._present.missing(start, end)

    @property
    def losses(self) -> int:
        """How often something that was there ceased to be.

        Bytes are read without a lock. What was read is right if it was there after this
        number was taken, and the number is the same after the reading.
        """
        return self._losses

    # Bytes in and out

    def write(self, offset: int, data: ReadableBuffer) -> None:
        """Put bytes at ``offset`` and count them as there.

        Raises :class:`CacheError` when the disk takes less than all of them; what it
        took is there. Also when they do not count because the blob is bad, or the disk
        lost something meanwhile; :class:`CacheFull` when there is no room for them.
        """
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError(f"{len(view)} bytes at {offset} of a blob of {self.size}")
        self._admit(len(view))
        self.used_at = time.time()
        # Counted before an eviction can begin: it must not make a hole of what counts after it.
        with self._writing:
            written, losses = 0, self._losses
            try:
                while written < len(view):
                    written += os.pwrite(self._fd, view[written:], offset + written)
            except OSError as error:
                raise CacheError(
                    f"cannot write {self.path} of the cache: {error.strerror}"
                ) from error
            finally:
                counted = self._add(offset, offset + written, losses)
        if not counted:
            raise CacheError(f"{self.path} of the cache takes no bytes: it lost or dropped some")

    def pread(self, offset: int, size: int) -> bytes:
        """Bytes from ``offset``: known to be there; shorter only at the blob's end."""
        buffer = bytearray(max(0, min(size, self.size - offset)))
        self.readinto(offset, buffer)
        return bytes(buffer)

    def readinto(self, offset: int, buffer: WriteableBuffer) -> int:
        """Fill ``buffer`` from ``offset`` and return how much; less only at the blob's end.

        The caller knows that the bytes are there. Raises :class:`CacheError` when the
        disk does not give them.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        self.used_at = time.time()
        try:
            while done < len(view):
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise CacheError(f"cannot read {self.path} of the cache: {error.strerror}") from error
        return done

    def fileno(self) -> int:
        """The open data file, to map or to pass to the kernel while this object lives."""
        return self._fd

    # Durability

    @property
    def dirty(self) -> bool:
        """Whether `flush` has anything to do."""
        return self._changes != self._flushed

    def flush(self) -> None:
        """Make durable what is there now. Slow (fdatasync); reads and writes go on meanwhile.

        Raises :class:`CacheError`; when it was the data that could not be made durable,
        everything that arrived since the last flush is forgotten, because the kernel
        reports such an error once and then drops the pages (fsync(2), ERRORS).
        """
        with self._flushing:
            if self._lost:
                self._drop_lost()
            with self._lock:
                if self._bad or self._lost or not self.dirty:
                    return
                ranges, verified, changes = self._present.copy(), self._verified, self._changes
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                with self._lock:
                    self._present, self._verified = self._durable.copy(), False
                    self._losses += 1
                raise CacheError(
                    f"the disk did not keep {self.path} of the cache: {error.strerror}; "
                    "its latest bytes will be fetched again"
                ) from error
            record = presence.Presence(
                digest=self.digest, size=self.size, verified=verified, ranges=list(ranges)
            )
            try:
                durable.replace(self._map, presence.encode(record))
            except OSError as error:
                raise CacheError(f"cannot write {self._map}: {error.strerror}") from error
            with self._lock:
                self._durable, self._flushed = ranges, changes

    # Verification

    def verify(self, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Hash the whole blob. True when it is right, False when ``cancelled`` said stop.

        Raises :class:`DigestMismatch` after dropping everything that was there, and
        :class:`CacheError` when the blob is not complete or cannot be read.
        """
        if self.state is BlobState.VERIFIED:
            return True
        if not self.complete:
            raise CacheError(f"cannot verify {self.digest}: not all of it is in the cache")
        losses = self._losses
        hasher = hashlib.new(algorithm(self.digest))
        buffer = memoryview(bytearray(min(_HASH_STEP, self.size)))
        offset = 0
        while offset < self.size:
            if cancelled():
                return False
            count = self.readinto(offset, buffer[: self.size - offset])
            if count == 0:
                raise CacheError(f"{self.path} of the cache ends at {offset} of {self.size} bytes")
            hasher.update(buffer[:count])
            offset += count
        if self._losses != losses:
            return False  # evicted or lost meanwhile: zeros were hashed, perhaps
        if hasher.hexdigest() != encoded(self.digest):
            self._condemn(hasher.hexdigest())
            raise DigestMismatch(
                f"the {self.size} bytes fetched as {self.digest} hash to {hasher.hexdigest()}: "
                "the registry, or something on the way, gave wrong bytes; none is served any more"
            )
        with self._lock:
            if self._losses != losses or self._present.total != self.size:
                return False
            self._verified = True
            self._changes += 1
        self._quarantine.acquit(self.digest)
        self._on_change(self, 0)
        return True

    def forgive(self, now: float) -> bool:
        """Whether bytes are taken again: True from the end of a bad blob's pause on.

        ``now`` in seconds since the epoch.
        """
        with self._lock:
            if self._bad and now >= self._bad_until:
                self._bad = False
            return not self._bad

    def _condemn(self, got: str) -> None:
        with self._flushing, self._lock:
            self._bad = True
            self._bad_until = float("inf")
            self._losses += 1
            self._present.clear()
            self._durable.clear()
            try:
                self._drop_files()
            except OSError as error:
                # Without its map the data counts for nothing; if even the map stays, it
                # is not marked verified and the next life hashes these bytes again.
                log.warning("cannot drop wrong bytes", path=str(self.path), error=str(error))
        record = self._quarantine.condemn(self.digest, self.size, got, self.sources)
        self.sources.clear()
        self._bad_until = record.at + record.pause

    # Ceasing to be there

    def lend(self) -> int | None:
        """A descriptor of the file for the kernel to read it by itself; None when it must not.

        Only a verified blob's, and never one with a hole: it would read as zeros. The file
        stays as it is as long as the descriptor, or what the kernel made of it, is open:
        also after we are gone, for the lock is that of the open file (flock(2)). Close it.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            log.warning("cannot open a cached blob", path=str(self.path), error=str(error))
            return None
        with self._lock:
            if self._verified and not self._bad and _locked(fd, fcntl.LOCK_SH):
                return fd
        os.close(fd)
        return None

    def evict(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Forget ``ranges`` and give their blocks back. False when the blob is lent or bad.

        The map on the disk goes first, then the one in memory, then the bytes, so that
        neither ever claims a hole. Whoever reads meanwhile finds out by `losses`. Raises
        :class:`CacheError` when the disk refuses; then more may be forgotten than freed,
        never the other way round.
        """
        gone = list(ranges)
        with self._flushing:
            with self._lock:
                if self._bad or self._lost or not _locked(self._fd, fcntl.LOCK_EX):
                    return False
                keep = self._durable.copy()
            try:
                for start, end in gone:
                    keep.remove(start, end)
                shrunk = self._shrink_map(keep)
                # No write may be under way: its bytes would count, and be a hole.
                with self._writing:
                    with self._lock:
                        for start, end in gone:
                            self._present.remove(start, end)
                        self._durable = keep if shrunk else RangeSet()
                        self._verified = False
                        self._losses += 1
                        self._changes += not shrunk
                    for start, end in gone:
                        holes.punch(self._fd, start, end)
            except OSError as error:
                raise CacheError(
                    f"cannot evict from {self.path} of the cache: {error.strerror}"
                ) from error
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        if not shrunk:
            self._on_change(self, 0)
        return True

    def _shrink_map(self, keep: RangeSet) -> bool:
        """Make the map claim ``keep`` at most; False when it had to go altogether: OSError."""
        if keep.total:
            record = presence.Presence(
                digest=self.digest, size=self.size, verified=False, ranges=list(keep)
            )
            try:
                durable.replace(self._map, presence.encode(record))
                return True
            except OSError:
                pass  # no room for the new one, of all times now
        self._drop_map()
        return not keep.total

    def lose(self) -> None:
        """The disk did not give what it had been given: nothing of the blob counts any more.

        Quick. The next `flush` drops the files; until then no bytes are taken.
        """
        with self._lock:
            self._lost = True
            self._verified = False
            self._present.clear()
            self._losses += 1
            self._changes += 1
        self._on_change(self, 0)

    def _drop_lost(self) -> None:
        try:
            # A write under way is refused by its own count, as long as `_lost` is set.
            with self._writing:
                self._drop_files()
                with self._lock:
                    self._durable.clear()
                    self._lost = False
                    self._flushed = self._changes
        except OSError as error:
            raise CacheError(f"cannot drop {self.path} of the cache: {error.strerror}") from error

    def _drop_map(self) -> None:
        self._map.unlink(missing_ok=True)
        durable.sync_directory(self._map.parent)

    def _drop_files(self) -> None:
        self._drop_map()
        if _locked(self._fd, fcntl.LOCK_EX):  # of a lent file only the map can go
            try:
                os.ftruncate(self._fd, 0)
                os.ftruncate(self._fd, self.size)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _add(self, start: int, end: int, losses: int) -> bool:
        if start == end:
            return True
        with self._lock:
            if self._bad or self._lost or self._losses != losses:
                return False
            self._present.add(start, end)
            self._changes += 1
        self._on_change(self, end - start)
        return True

    # Opening

    def _open(self) -> tuple[int, presence.Presence | None]:
        try:
            raw = self._map.read_bytes()
        except FileNotFoundError:
            raw = None
        except OSError as error:
            log.warning("map of a cached blob unreadable", path=str(self._map), error=str(error))
            raw = b""
        known = presence.decode(raw, self.digest) if raw is not None else None
        if known is not None and known.verified and known.size != self.size:
            raise CacheError(
                f"{self.digest} is verified to have {known.size} bytes, "
                f"but the artifact says {self.size}: the artifact is wrong"
            )
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise CacheError(f"{self.path} of the cache is no regular file: remove it")
            if known is not None and found.st_size == known.size == self.size:
                return fd, known
            if raw is not None:
                log.warning(
                    "cached blob does not match its map, starting from nothing",
                    path=str(self.path),
                    size=found.st_size,
                    expected=self.size,
                    map_sound=known is not None,
                )
                # Before the data file looks as the map says it should.
                self._map.unlink()
                durable.sync_directory(self._map.parent)
            os.ftruncate(fd, 0)
            os.ftruncate(fd, self.size)
        except BaseException:
            os.close(fd)
            raise
        return fd, None


def _locked(fd: int, kind: int) -> bool:
    """Whether flock(2) gave the lock at once; False when another open file has it."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
