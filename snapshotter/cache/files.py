"""The two files of a blob: sparse data, and a map of which parts of it are durably right.

What is written here is ordered so that no map ever claims what is not there, whenever the
machine stops. Who may call what at the same time is the blob's affair.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.cache import durable, presence
from snapshotter.cache.errors import CacheError
from snapshotter.cache.holes import punch
from snapshotter.cache.ranges import RangeSet

log = structlog.get_logger(__name__)


class BlobFiles:
    """The data file is opened, and made, with the first byte that is written or read: a node
    knows many more blobs than are used, and each descriptor counts. From then on it lives
    exactly as long as the object: closing it any earlier could let the kernel give the number
    to another file under a thread about to write."""

    def __init__(self, directory: Path, digest: Digest, size: int) -> None:
        """Look at what there is; nothing is made.

        Raises :class:`CacheError` when the files cannot be used, or when there is a
        verified blob of this digest and another size.
        """
        self._directory = directory
        self._digest = digest
        self._size = size
        self._opening = threading.Lock()
        self._fd = -1
        try:
            self.known = self._look()
        except OSError as error:
            raise CacheError(f"cannot open {self.data} of the cache: {error.strerror}") from None
        self._fresh = self.known is None

    @property
    def data(self) -> Path:
        """Sparse, and right only where the map says so."""
        return self._directory / "data"

    @property
    def map(self) -> Path:
        return self._directory / "map"

    # All of these raise OSError

    @property
    def fd(self) -> int:
        """The data file."""
        if self._fd < 0:
            with self._opening:
                if self._fd < 0:
                    self._set(self._new_data() if self._fresh else self._open_data())
        return self._fd

    @property
    def opened(self) -> bool:
        """Whether anything was read or written yet."""
        return self._fd >= 0

    def write_map(self, ranges: RangeSet, *, verified: bool) -> None:
        """Claim ``ranges``, which are durable, and nothing else."""
        record = presence.Presence(
            digest=self._digest, size=self._size, verified=verified, ranges=list(ranges)
        )
        durable.replace(self.map, presence.encode(record))

    def shrink_map(self, ranges: RangeSet) -> bool:
        """Claim at most ``ranges``; False when the map had to go altogether: a full disk."""
        if ranges.total:
            try:
                self.write_map(ranges, verified=False)
                return True
            except OSError as error:
                log.info("map of a cached blob dropped", path=str(self.map), why=str(error))
        self.drop_map()
        return not ranges.total

    def drop_map(self) -> None:
        """Claim nothing."""
        self.map.unlink(missing_ok=True)
        if self._directory.exists():
            durable.sync_directory(self._directory)

    def punch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Give the blocks of ``ranges`` back; nothing may claim them any more."""
        for start, end in ranges:
            punch(self.fd, start, end)

    def renew(self) -> None:
        """Begin again with nothing, in a new file: who has the old one open keeps its bytes."""
        self.drop_map()
        fd = self._new_data()
        with self._opening:
            self._fresh = False
            if self._fd < 0:
                self._set(fd)
                return
        try:
            os.dup2(fd, self._fd, inheritable=False)
        finally:
            os.close(fd)

    # Who else reads the data: the kernel, for files that are open with passthrough

    def lend(self) -> int | None:
        """A descriptor of the data for the kernel to read it by itself; close it.

        None while it is being evicted. The lock is that of the open file (flock(2)), so it
        lasts as long as this descriptor, or what the kernel made of it, is open: also after
        this process has ended, however it ended.
        """
        fd = os.open(self.data, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if _locked(fd, fcntl.LOCK_SH):
            return fd
        os.close(fd)
        return None

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Whether nobody has the data lent; nobody will have until the block ends."""
        if not _locked(self.fd, fcntl.LOCK_EX):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self.fd, fcntl.LOCK_UN)

    # Opening

    def _look(self) -> presence.Presence | None:
        """What the map says, where the data file is as it says."""
        raw = self._read_map()
        if raw is None:
            return None
        known = presence.decode(raw, self._digest)
        if known is not None and known.verified and known.size != self._size:
            raise CacheError(
                f"{self._digest} is verified to have {known.size} bytes, "
                f"but the artifact says {self._size}: the artifact is wrong"
            )
        try:
            found: os.stat_result | None = os.lstat(self.data)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EIO):
                raise
            found = None
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise _no_regular_file(self.data)
        if known is not None and found is not None and found.st_size == known.size == self._size:
            return known
        log.warning(
            "cached blob does not match its map, starting from nothing",
            path=str(self.data),
            size=found.st_size if found is not None else None,
            expected=self._size,
            map_sound=known is not None,
        )
        # Before the data file looks as the map says it should.
        self.drop_map()
        return None

    def _open_data(self) -> int:
        fd = os.open(self.data, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise _no_regular_file(self.data)
        return fd

    def _set(self, fd: int) -> None:
        self._fd = fd
        weakref.finalize(self, os.close, fd).atexit = False

    def _new_data(self) -> int:
        """An empty sparse file in the place of what there was."""
        durable.make_directory(self._directory)
        if os.path.lexists(self.data) and not stat.S_ISREG(os.lstat(self.data).st_mode):
            raise _no_regular_file(self.data)
        new = self.data.with_name("data.new")
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(new, flags, 0o600)
        try:
            os.ftruncate(fd, self._size)
            new.rename(self.data)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _read_map(self) -> bytes | None:
        try:
            # A string, not a path: of a model with thousands of files there is none of most.
            fd = os.open(f"{self._directory}/map", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("map of a cached blob unreadable", path=str(self.map), error=str(error))
            return b""


def _no_regular_file(data: Path) -> CacheError:
    return CacheError(f"{data} of the cache is no regular file: remove it")


def is_lent(data: Path) -> bool:
    """Whether the kernel reads a blob's file by itself, or may: see :meth:`BlobFiles.lend`."""
    try:
        fd = os.open(data, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
