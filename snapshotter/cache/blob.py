"""One blob on the disk: a sparse file of its full size, and the map of what is in it.

The map in memory (``present``) runs ahead of the map on the disk, never the other
way round: `flush` takes a snapshot of the ranges, makes the data durable, and only
then writes that snapshot. So whatever a map claims after a crash is right.
"""

from __future__ import annotations

import enum
import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from snapshotter.artifact.digest import Digest, encoded
from snapshotter.cache.dropbehind import DropBehind
from snapshotter.cache.errors import CacheError, CacheFull, DigestMismatch, Unreadable
from snapshotter.cache.files import BlobFiles
from snapshotter.cache.ranges import RangeSet
from snapshotter.cache.room import Boundless, Room
from snapshotter.cache.verification import Verification

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

log = structlog.get_logger(__name__)

HASH_STEP = 4 << 20
"""Bytes hashed between two looks at whether to stop."""


class BlobState(enum.Enum):
    PARTIAL = "partial"
    COMPLETE = "complete"
    """Every byte is there; nobody has hashed them yet."""
    VERIFIED = "verified"
    BAD = "bad"
    """It was complete and did not hash to its digest. Nothing of it is there any more, and
    nothing is taken, until it is given another chance: :meth:`Blob.forgive`."""


class Blob:
    """A blob by digest. Thread-safe; shared by everybody who reads or fetches it.

    Get one from :class:`~snapshotter.cache.store.BlobStore`.
    """

    def __init__(
        self,
        directory: Path,
        digest: Digest,
        size: int,
        on_change: Callable[[Blob, int], None] = lambda *_: None,
        room: Room | None = None,
    ) -> None:
        """Open what ``directory`` holds of the blob, or begin with nothing.

        ``on_change`` is called after each change a `flush` would make durable, with
        the bytes just written, from the thread that made it. Raises
        :class:`CacheError` when the files cannot be used, or when the cache holds a
        verified blob of this digest and another size.
        """
        self.digest = digest
        self.size = size
        self.used_at = 0.0
        """When bytes of it were last read or written through us, seconds since the epoch."""
        self._files = BlobFiles(directory, digest, size)
        self._on_change = on_change
        self._room = room or Boundless()
        self._lock = threading.Lock()
        self._flushing = threading.Lock()  # taken before _lock
        # The kernel lets one thread write to a file at a time, and the others spin for
        # their turn (i_rwsem): with a lock of our own they sleep.
        self._writing = threading.Lock()
        known = self._files.known
        self._dropping = DropBehind()
        self._present = RangeSet(known.ranges if known else ())
        self._durable = self._present.copy()
        self._verified = known is not None and known.verified
        self._bad = False
        self._void = False
        """What the files hold counts for nothing; they are made anew before anything is taken."""
        self._synced = self._verified
        """Every byte is durable, whether or not the map says so yet."""
        self._changes = self._flushed = 0
        self._losses = 0  # a write that began before a loss does not count as there after it
        self._vouched = RangeSet()  # of what is there, what is known to be right

    @property
    def path(self) -> Path:
        """The data file; sparse, and right only where `has` says so. Made at the first write."""
        return self._files.data

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
        lost something meanwhile; :class:`CacheFull` when there is no room for them.
        """
        view = memoryview(data).cast("B")
        if offset < 0 or offset + len(view) > self.size:
            raise ValueError(f"{len(view)} bytes at {offset} of a blob of {self.size}")
        self.used_at = time.time()
        with self._writing:
            # Taken before an eviction can begin: it must not make a hole of what counts after it.
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

        The caller knows that the bytes are there. Raises :class:`Unreadable` when the
        disk does not give them.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        self.used_at = time.time()
        try:
            while done < len(view):
                count = os.preadv(self._files.fd, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise Unreadable(f"cannot read {self.path} of the cache: {error.strerror}") from error
        return done

    def use(self) -> None:
        """Somebody begins or ends to read it past us."""
        self.used_at = time.time()

    def passed(self, start: int, end: int) -> None:
        """Whoever wanted ``[start, end)`` has it: memory need not keep what the disk has."""
        if self._files.opened:
            os.posix_fadvise(self._files.fd, start, end - start, os.POSIX_FADV_DONTNEED)

    def fileno(self) -> int:
        """The open data file. Raises :class:`CacheError` when it cannot be opened."""
        try:
            return self._files.fd
        except OSError as error:
            raise Unreadable(f"cannot open {self.path} of the cache: {error.strerror}") from error

    # Durability

    @property
    def void(self) -> bool:
        """What was there is lost, and nothing is taken before `flush` has begun anew."""
        return self._void

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
            if self._void:
                self._renew()
            with self._lock:
                if self._bad or self._void or not self.dirty:
                    return
                ranges, verified, changes = self._present.copy(), self._verified, self._changes
                losses = self._losses
            try:
                os.fdatasync(self._files.fd)
            except OSError as error:
                with self._lock:
                    self._present, self._verified = self._durable.copy(), False
                    self._lose()
                raise CacheError(
                    f"the disk did not keep {self.path} of the cache: {error.strerror}; "
                    "its latest bytes will be fetched again"
                ) from error
            with self._lock:
                if losses != self._losses:
                    return  # what went is gone on the disk too, or will be: `lose`
                self._synced = ranges.total == self.size
            try:
                self._files.write_map(ranges, verified=verified)
            except OSError as error:
                raise CacheError(f"cannot write {self._files.map}: {error.strerror}") from error
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
                if self._bad or self._void:
                    return
                for ranges in (self._present, self._durable):
                    ranges.remove(start, end)
                self._verified = self._synced = False
                self._vouched.remove(start, end)
                self._losses += 1
                self._changes += 1
                durable_ranges = self._durable.copy()
            try:
                self._files.write_map(durable_ranges, verified=False)
            except OSError as error:
                log.warning("cannot drop wrong bytes", path=str(self._files.map), error=str(error))
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
        with self._flushing:
            with self._lock:
                self._bad = True
                self._forget_all()
            try:
                self._renew()
            except CacheError as error:
                # Nothing of it counts in this life; and if even the map stays, the next one
                # knows by it of no byte that was hashed.
                log.warning("cannot drop wrong bytes", path=str(self.path), error=str(error))

    def forgive(self) -> None:
        """Take bytes of a bad blob again."""
        with self._lock:
            self._bad = False

    # Ceasing to be there

    def lend(self) -> int | None:
        """A descriptor of the data for the kernel to read it by itself; None when it must not.

        Only of a blob that is verified and durable. No byte of it is evicted as long as the
        descriptor, or what the kernel made of it, is open. Close it.
        """
        with self._lock:
            if not (self._verified and self._synced) or self._bad or self._void:
                return None
            try:
                return self._files.lend()
            except OSError as error:
                log.warning("cached blob not lent", path=str(self.path), error=str(error))
                return None

    def evict(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Forget ``ranges`` and give their blocks back; False when it is lent, or bad.

        The map on the disk goes first, then the one in memory,
        then the bytes, so that neither ever claims a hole. Whoever reads meanwhile finds out
        by :attr:`losses`. Raises :class:`CacheError` when the disk refuses: then more may be
        forgotten than was given back, never the other way round.
        """
        with self._flushing, self._files.alone() as alone:
            with self._lock:
                if not alone or self._bad or self._void:
                    return False
                keep = self._durable.copy()
            for start, end in ranges:
                keep.remove(start, end)
            try:
                shrunk = self._files.shrink_map(keep)
                # No write may be under way: its bytes would count, and be a hole.
                with self._writing:
                    gone = self._forget(ranges, keep if shrunk else RangeSet())
                    self._files.punch(ranges)
            except OSError as error:
                raise CacheError(
                    f"cannot evict from {self.path} of the cache: {error.strerror}"
                ) from error
        self._room.give_back(gone)
        self._on_change(self, 0)
        return True

    def _forget(self, ranges: Sequence[tuple[int, int]], durable: RangeSet) -> int:
        with self._lock:
            before = self._present.total
            for start, end in ranges:
                self._present.remove(start, end)
                self._vouched.remove(start, end)
            self._durable = durable
            self._verified = self._synced = False
            self._losses += 1
            self._changes += durable != self._present  # else the map on the disk says so
            return before - self._present.total

    def lose(self) -> None:
        """The disk did not give what it had been given: nothing of it counts any more.

        Quick. The next `flush` begins new files; until then no bytes are taken.
        """
        with self._lock:
            if self._bad or self._void:
                return
            self._forget_all()
        self._on_change(self, 0)

    def _forget_all(self) -> None:
        """With the lock held."""
        self._room.give_back(self._present.total)
        self._present.clear()
        self._verified = False
        self._void = True
        self._changes += 1
        self._lose()

    def _renew(self) -> None:
        """With ``_flushing`` held: make the files anew, which count for nothing."""
        try:
            with self._writing:
                self._files.renew()
                with self._lock:
                    self._durable.clear()
                    self._void = False
                    self._flushed = self._changes
        except OSError as error:
            raise CacheError(f"cannot drop {self.path} of the cache: {error.strerror}") from error

    def _lose(self) -> None:
        """With the lock held: bytes are lost, and nobody knows which of the others are right."""
        self._vouched.clear()
        self._synced = False
        self._losses += 1

    def _put(self, start: int, data: memoryview, losses: int, *, passing: bool) -> bool:
        self._room.take(len(data))
        written = 0
        try:
            while written < len(data):
                written += self._writev(data[written:], start + written, passing=passing)
        except OSError as error:
            message = f"cannot write {self.path} of the cache: {error.strerror}"
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._room.refused()
                raise CacheFull(message) from error
            raise CacheError(message) from error
        finally:
            self._room.settle(len(data), unused=len(data) - written)
            counted = self._add(start, start + written, losses)
        return counted

    def _writev(self, data: memoryview, offset: int, *, passing: bool) -> int:
        if passing:
            return self._dropping.write(self._files.fd, data, offset)
        return os.pwrite(self._files.fd, data, offset)

    def _add(self, start: int, end: int, losses: int) -> bool:
        if start == end:
            return True
        with self._lock:
            if self._bad or self._void or self._losses != losses:
                return False
            self._present.add(start, end)
            self._changes += 1
        self._on_change(self, end - start)
        return True
