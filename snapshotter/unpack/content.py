"""What a compressed blob decompresses to, on the disk.

A file that grows from its beginning, and a record that is written once all of it is
durable. A file without its record counts for nothing: a stream cannot be taken up in the
middle, so the next life begins anew, from compressed bytes that are cached themselves.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
import weakref
from pathlib import Path

import msgspec
import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.cache import durable
from snapshotter.cache.errors import CacheError, Unreadable
from snapshotter.cache.space import Space
from snapshotter.cache.store import Held

log = structlog.get_logger(__name__)

VERSION = 1
_PATIENCE = 30.0
"""Seconds to wait for room: nobody can read on without it."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    digest: str
    """Of the compressed blob."""
    size: int
    """What it decompresses to, in bytes."""
    diff_id: str
    """What that hashes to, sha256."""
    version: int = VERSION


class Content:
    """One blob's content below ``directory``. One thread writes, any may read.

    ``held`` keeps it from being removed; ``space`` is what it takes its room from.
    """

    def __init__(
        self,
        directory: Path,
        digest: Digest,
        space: Space | None = None,
        held: Held | None = None,
    ) -> None:
        """Open what there is; without a sound record nothing. Raises :class:`CacheError`."""
        self.digest = digest
        self._space = space
        self._held = held or Held()
        self.path = directory / "data"
        self._record_path = directory / "done"
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise CacheError(f"cannot open {self.path} of the cache: {error.strerror}") from None
        weakref.finalize(self, os.close, self._fd).atexit = False
        self.record = self._known()
        """Set when all of it is there, verified and durable."""
        self.size = self.record.size if self.record is not None else 0
        """Bytes that are there."""
        if self.record is None:
            self.clear()

    def append(self, data: bytes) -> None:
        """Raises :class:`CacheError` when the disk does not take all of it; then none counts.

        Waits while room is made for it.
        """
        view, written = memoryview(data), 0
        if self._space is not None:
            self._space.take_later(len(view), _PATIENCE)
        try:
            while written < len(view):
                written += os.pwrite(self._fd, view[written:], self.size + written)
        except OSError as error:
            if self._space is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
                self._space.refused()
            raise CacheError(f"cannot write {self.path} of the cache: {error.strerror}") from error
        finally:
            if self._space is not None:
                self._space.settle(len(view), unused=len(view) - written)
        self.size += written

    def read(self, offset: int, size: int) -> bytes:
        """Exactly ``size`` bytes that are known to be there; :class:`Unreadable` otherwise."""
        self._held.used_at = time.time()
        buffer = bytearray(size)
        view, done = memoryview(buffer), 0
        try:
            while done < size:
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if count == 0:
                    raise Unreadable(
                        f"{self.path} of the cache ends at {offset + done}, before {offset + size}"
                    )
                done += count
        except OSError as error:
            raise Unreadable(f"cannot read {self.path} of the cache: {error.strerror}") from error
        return bytes(buffer)

    def finish(self, diff_id: Digest) -> None:
        """All of it is there and right: make it durable. :class:`CacheError`; may be repeated."""
        record = Record(digest=self.digest, size=self.size, diff_id=diff_id)
        body = msgspec.json.encode(record)
        try:
            os.fdatasync(self._fd)
            durable.replace(
                self._record_path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body
            )
        except OSError as error:
            raise CacheError(f"cannot keep {self.path} of the cache: {error.strerror}") from error
        self.record = record

    def doubt(self) -> None:
        """The disk did not give it: whoever opens it next begins anew. Quick."""
        try:
            self._record_path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("record of an unpacked layer left", path=str(self.path), error=str(error))

    def clear(self) -> None:
        """Drop what there is."""
        if self._space is not None:
            self._space.give_back(self.size)
        self.size, self.record = 0, None
        try:
            self._record_path.unlink(missing_ok=True)
            # For good, before there is another file of the same size.
            durable.sync_directory(self.path.parent)
            os.ftruncate(self._fd, 0)
        except OSError as error:
            # What is left has no record, or is overwritten before it is read.
            log.warning("cannot drop unpacked bytes", path=str(self.path), error=str(error))

    def _known(self) -> Record | None:
        try:
            checksum, _, body = self._record_path.read_bytes().partition(b"\n")
            if checksum != hashlib.sha256(body).hexdigest().encode():
                return None
            record = msgspec.json.decode(body, type=Record)
            size = os.fstat(self._fd).st_size
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        if (record.version, record.digest, record.size) != (VERSION, self.digest, size):
            log.warning("unpacked layer does not match its record", path=str(self.path))
            return None
        return record
