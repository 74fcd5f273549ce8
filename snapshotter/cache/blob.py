"""One blob on the disk: a sparse file of its full size, and the map of what is in it.

The map in memory (``present``) runs ahead of the map on the disk, never the other
way round: `flush` takes a snapshot of the ranges, makes the data durable, and only
then writes that snapshot. So whatever a map claims after a crash is right.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from snapshotter.artifact.digest import Digest, encoded
from snapshotter.cache import durable, presence
from snapshotter.cache.errors import CacheError, DigestMismatch
from snapshotter.cache.ranges import RangeSet
from snapshotter.cache.verification import Verification

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

log = structlog.get_logger(__name__)

HASH_STEP = 4 << 20
"""Bytes hashed between two looks at whether to stop."""

RWF_DONTCACHE = 0x80
"""include/uapi/linux/fs.h, Linux 6.14: write back at once, and drop the pages then."""


class BlobState(enum.Enum):
    PARTIAL = "partial"
    COMPLETE = "complete"
    """Every byte is there; nobody has hashed them yet."""
    VERIFIED = "verified"
    BAD = "bad"
    """It was complete and did not hash to its digest. Nothing of it is there any more, and
    nothing is taken, until everybody has let go of this object and the blob is opened anew."""


class Blob:
    """A blob by digest. Thread-safe; shared by everybody who reads or fetches it.

    Its data file is opened, and made, with the first byte that is written or read: a node
    knows many more blobs than are used, and each descriptor counts. From then on it lives
    exactly as long as the object: closing it any earlier could let the kernel give the number
    to another file under a thread about to write.

    Get one from :class:`~snapshotter.cache.store.BlobStore`.
    """

    def __init__(
        self,
        directory: Path,
        digest: Digest,
        size: int,
        on_change: Callable[[Blob, int], None] = lambda *_: None,
    ) -> None:
        """Open what ``directory`` holds of the blob, or begin with nothing.

        ``on_change`` is called after each change a `flush` would make durable, with
        the bytes just written, from the thread that made it. Raises
        :class:`CacheError` when the files cannot be used, or when the cache holds a
        verified blob of this digest and another size.
        """
        self.digest = digest
        self.size = size
        self._directory = directory
        self._on_change = on_change
        self._lock = threading.Lock()
        self._flushing = threading.Lock()  # taken before _lock
        # The kernel lets one thread write to a file at a time, and the others spin for
        # their turn (i_rwsem): with a lock of our own they sleep.
        self._writing = threading.Lock()
        self._opening = threading.Lock()
        self._opened = -1
        try:
            known = self._known()
        except OSError as error:
            raise CacheError(f"cannot open {self.path} of the cache: {error.strerror}") from None
        self._fresh = known is None
        self._takes_passing = True
        self._present = RangeSet(known.ranges if known else ())
        self._durable = self._present.copy()
        self._verified = known is not None and known.verified
        self._bad = False
        self._changes = self._flushed = 0
        self._losses = 0  # a write that began before a loss does not count as there after it
        self._vouched = RangeSet()  # of what is there, what is known to be right

    @property
    def path(self) -> Path:
        """The data file; sparse, and right only where `has` says so. Made at the first write."""
        return self._directory / "data"

    @property
    def _map(self) -> Path:
        return self._directory / "map"

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
    def bad(self) -> bool:
        """Whether it is :attr:`BlobState.BAD`, without waiting for who is finding out."""
        return self._bad

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
        try:
            return self.path.stat().st_blocks * 512
        except OSError:
            return 0

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

    # Bytes in and out

    def write(self, offset: int, data: ReadableBuffer, *, passing: bool = False) -> None:
        """Put bytes at ``offset`` and count them as there; what is there already stays as it is.

        ``passing``: whoever wants them has them. The disk is to have them soon, memory need not
        keep them: its pages are better used for the bytes to come.

        Raises :class:`CacheError` when the disk takes less than all of them; what it
        took is there. Also when they do not count because the blob is bad, or the disk
        lost something meanwhile.
        """
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError(f"{len(view)} bytes at {offset} of a blob of {self.size}")
        with self._writing:
            counted, losses = True, self._losses
            # What is there is never written again: somebody may have hashed it already.
            for start, end in self.missing(offset, offset + len(view)):
                part = view[start - offset : end - offset]
                counted = self._put(start, part, losses, passing=passing) and counted
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
        try:
            while done < len(view):
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise CacheError(f"cannot read {self.path} of the cache: {error.strerror}") from error
        return done

    def passed(self, start: int, end: int) -> None:
        """Whoever wanted ``[start, end)`` has it: memory need not keep what the disk has."""
        os.posix_fadvise(self._fd, start, end - start, os.POSIX_FADV_DONTNEED)

    def fileno(self) -> int:
        """The open data file, to map or to pass to the kernel while this object lives.

        Raises :class:`CacheError` when it cannot be opened."""
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
            with self._lock:
                if self._bad or not self.dirty:
                    return
                ranges, verified, changes = self._present.copy(), self._verified, self._changes
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                with self._lock:
                    self._present, self._verified = self._durable.copy(), False
                    self._lose()
                raise CacheError(
                    f"the disk did not keep {self.path} of the cache: {error.strerror}; "
                    "its latest bytes will be fetched again"
                ) from error
            try:
                self._write_map(ranges, verified=verified)
            except OSError as error:
                raise CacheError(f"cannot write {self._map}: {error.strerror}") from error
            with self._lock:
                self._durable, self._flushed = ranges, changes

    # Verification

    @property
    def losses(self) -> int:
        """How often bytes that were there ceased to be; what is there never changes.

        What was read is what is there when it was there after this number was taken, and
        the number is the same after the reading.
        """
        return self._losses

    def vouched(self, start: int, end: int) -> int | None:
        """:attr:`losses` when all of ``[start, end)`` is there and known to be right, else None."""
        with self._lock:
            known = self._verified or self._vouched.contains(start, end)
            return self._losses if known and not self._bad else None

    def vouch(self, start: int, end: int, losses: int) -> bool:
        """Know ``[start, end)`` to be right: it was read and hashed since there were ``losses``.

        False, and nothing is known, when it is not all there or something was lost since.
        """
        with self._lock:
            if losses != self._losses or not self._present.contains(start, end):
                return False
            self._vouched.add(start, end)
            return True

    def drop(self, start: int, end: int) -> None:
        """Forget ``[start, end)``, which is wrong: also a map on the disk does not claim it now."""
        with self._flushing, self._writing:  # a write under way would not count any more
            with self._lock:
                if self._bad:
                    return
                for ranges in (self._present, self._durable):
                    ranges.remove(start, end)
                self._verified = False
                self._vouched.remove(start, end)
                self._losses += 1
                self._changes += 1
                durable_ranges = self._durable.copy()
            try:
                self._write_map(durable_ranges, verified=False)
            except OSError as error:
                log.warning("cannot drop wrong bytes", path=str(self._map), error=str(error))
        self._on_change(self, 0)

    def verify(self, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Hash the whole blob. True when it is right, False when ``cancelled`` said stop.

        Raises :class:`DigestMismatch` after dropping everything that was there, and
        :class:`CacheError` when the blob is not complete or cannot be read.
        """
        if self.state is BlobState.VERIFIED:
            return True
        if not self.complete:
            raise CacheError(f"cannot verify {self.digest}: not all of it is in the cache")
        hashed = Verification(self.digest, self.size)
        while not hashed.whole:
            if cancelled() or (hashed.advance(self, HASH_STEP) == 0 and not self.complete):
                return False
        return self.conclude(hashed)

    def conclude(self, hashed: Verification) -> bool:
        """Say what the hash of all bytes means: True when they are right, and so the blob is.

        False when some were lost since they were hashed. Raises :class:`DigestMismatch`
        after dropping everything that was there.
        """
        if hashed.losses != self._losses:
            return False
        if hashed.hexdigest() != encoded(self.digest):
            self._condemn()
            raise DigestMismatch(
                f"the {self.size} bytes fetched as {self.digest} hash to {hashed.hexdigest()}: "
                "the registry, or something on the way, gave wrong bytes; none is served any more"
            )
        with self._lock:
            if self._present.total != self.size or hashed.losses != self._losses:
                return False
            self._verified = True
            self._changes += 1
        self._on_change(self, 0)
        return True

    def _condemn(self) -> None:
        with self._flushing, self._lock:
            # What was verified the kernel may be reading by itself: it must not see holes.
            empty = not self._verified
            self._bad = True
            self._verified = False
            self._lose()
            self._present.clear()
            self._durable.clear()
            try:
                self._map.unlink(missing_ok=True)
                durable.sync_directory(self._map.parent)
                if empty:
                    os.ftruncate(self._fd, 0)
                    os.ftruncate(self._fd, self.size)
            except OSError as error:
                # Without its map the data counts for nothing; if even the map stays, it
                # is not marked verified and the next life hashes these bytes again.
                log.warning("cannot drop wrong bytes", path=str(self.path), error=str(error))

    def _lose(self) -> None:
        """With the lock held: bytes are lost, and nobody knows which of the others are right."""
        self._vouched.clear()
        self._losses += 1

    def _write_map(self, ranges: RangeSet, *, verified: bool) -> None:
        record = presence.Presence(
            digest=self.digest, size=self.size, verified=verified, ranges=list(ranges)
        )
        durable.replace(self._map, presence.encode(record))

    def _put(self, start: int, data: memoryview, losses: int, *, passing: bool) -> bool:
        written = 0
        try:
            while written < len(data):
                written += self._writev(data[written:], start + written, passing=passing)
        except OSError as error:
            raise CacheError(f"cannot write {self.path} of the cache: {error.strerror}") from error
        finally:
            counted = self._add(start, start + written, losses)
        return counted

    def _writev(self, data: memoryview, offset: int, *, passing: bool) -> int:
        if passing and self._takes_passing:
            try:
                return os.pwritev(self._fd, (data,), offset, RWF_DONTCACHE)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self._takes_passing = False  # a kernel or a file system that cannot
        return os.pwrite(self._fd, data, offset)

    def _add(self, start: int, end: int, losses: int) -> bool:
        if start == end:
            return True
        with self._lock:
            if self._bad or self._losses != losses:
                return False
            self._present.add(start, end)
            self._changes += 1
        self._on_change(self, end - start)
        return True

    # Opening

    def _known(self) -> presence.Presence | None:
        """What the map says, where the data file is as it says; no file is made."""
        try:
            # A string, not a path: of a model with thousands of files there is none of most.
            with open(f"{self._directory}/map", "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return None
        known = presence.decode(raw, self.digest)
        if known is not None and known.verified and known.size != self.size:
            raise CacheError(
                f"{self.digest} is verified to have {known.size} bytes, "
                f"but the artifact says {self.size}: the artifact is wrong"
            )
        try:
            found: os.stat_result | None = os.lstat(self.path)
        except FileNotFoundError:
            found = None
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise CacheError(f"{self.path} of the cache is no regular file: remove it")
        if known is not None and found is not None and found.st_size == known.size == self.size:
            return known
        log.warning(
            "cached blob does not match its map, starting from nothing",
            path=str(self.path),
            size=found.st_size if found is not None else None,
            expected=self.size,
            map_sound=known is not None,
        )
        # Before the data file looks as the map says it should.
        self._map.unlink()
        durable.sync_directory(self._map.parent)
        return None

    @property
    def _fd(self) -> int:
        """The data file. Raises :class:`CacheError` when it cannot be opened."""
        if self._opened < 0:
            with self._opening:
                if self._opened < 0:
                    self._opened = self._open()
                    weakref.finalize(self, os.close, self._opened).atexit = False
        return self._opened

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if self._fresh else 0)
        try:
            durable.make_directory(self._directory)
            fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise CacheError(f"cannot open {self.path} of the cache: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise CacheError(f"{self.path} of the cache is no regular file: remove it")
            if self._fresh:
                os.ftruncate(fd, 0)
                os.ftruncate(fd, self.size)
        except OSError as error:
            os.close(fd)
            raise CacheError(f"cannot use {self.path} of the cache: {error.strerror}") from None
        except BaseException:
            os.close(fd)
            raise
        return fd
