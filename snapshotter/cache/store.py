"""All blobs of one cache directory, and the thread that makes their bytes durable.

``<root>/blobs/<algorithm>/<hex>/{data,map}``. One process at a time.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.cache import durable
from snapshotter.cache.blob import Blob
from snapshotter.cache.errors import CacheError, CacheInUse
from snapshotter.cache.options import CacheOptions

log = structlog.get_logger(__name__)


class BlobStore:
    """The blob cache under ``root``, which is made where it is missing (mode 0700).

    Raises :class:`CacheError` when ``root`` cannot be written or another process
    uses it. Thread-safe.
    """

    def __init__(self, root: Path, options: CacheOptions) -> None:
        self.root = root
        self._options = options
        self._locked: int | None = _lock(root)
        self._lock = threading.Lock()
        # A blob lives as long as somebody uses it or it holds bytes not yet durable,
        # so opening it again never meets a map on the disk that lags behind.
        self._blobs: WeakValueDictionary[Digest, Blob] = WeakValueDictionary()
        self._dirty: dict[Digest, Blob] = {}
        self._unflushed = 0
        self._failing: set[Digest] = set()
        self._closing = False
        self._wake = threading.Event()
        self._flusher = threading.Thread(target=self._run, name="modelpack-flush", daemon=True)
        self._flusher.start()

    def open(self, digest: Digest, size: int) -> Blob:
        """The blob, with what the cache has of it: one object for everybody who asks.

        It needs no closing: let go of it. Raises :class:`CacheError` when it is known to have
        another size, or what the cache has of it cannot be read.
        """
        with self._lock:
            if self._locked is None:
                raise CacheError(f"the cache {self.root} is closed")
            blob = self._blobs.get(digest)
            if blob is None:
                directory = self.directory(digest)
                blob = self._blobs[digest] = Blob(directory, digest, size, self._changed)
        if blob.size != size:
            raise CacheError(
                f"{digest} is in use with {blob.size} bytes, but the artifact says {size}: "
                "one of the two artifacts is wrong"
            )
        return blob

    def directory(self, digest: Digest) -> Path:
        """Where the files of a blob are, if there are any."""
        return Path(f"{self.root}/blobs/{algorithm(digest)}/{encoded(digest)}")

    def blobs(self) -> list[Blob]:
        """The blobs in use."""
        with self._lock:
            return list(self._blobs.values())

    def allocated(self) -> int:
        """Bytes of disk that all blobs take, in use or not."""
        total = 0
        for data in (self.root / "blobs").glob("*/*/data"):
            try:
                total += data.stat().st_blocks * 512
            except FileNotFoundError:
                continue
        return total

    def flush(self) -> None:
        """Make durable what has arrived. What cannot be is logged and tried again."""
        with self._lock:
            dirty, self._dirty, self._unflushed = self._dirty, {}, 0
        for digest, blob in dirty.items():
            try:
                blob.flush()
            except CacheError as error:
                if digest not in self._failing:
                    log.warning("cache not flushed, trying again", error=str(error))
                self._failing.add(digest)
                with self._lock:
                    self._dirty[digest] = blob
            else:
                self._failing.discard(digest)

    def close(self) -> None:
        """Flush, and let another process have the directory. Blobs in use can still be read."""
        with self._lock:
            locked, self._locked = self._locked, None
        if locked is None:
            return
        self._closing = True
        self._wake.set()
        self._flusher.join()
        self._dirty.clear()  # what could not be flushed is not kept alive by us any more
        os.close(locked)

    def _changed(self, blob: Blob, count: int) -> None:
        with self._lock:
            self._dirty[blob.digest] = blob
            self._unflushed += count
            due = self._unflushed >= self._options.flush_bytes
        if due or blob.complete:
            self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self._options.flush_interval)
            self._wake.clear()
            self.flush()
        self.flush()  # what came in while the loop was flushing


def _lock(root: Path) -> int:
    """An exclusive lock on ``root`` for as long as the returned descriptor is open."""
    _make_directory(root / "blobs")
    path = root / "lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(root, error) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise CacheInUse(
            f"the cache {root} is in use by another process (pid {holder}): "
            "stop that one or set another root"
        ) from None
    except OSError as error:
        os.close(fd)
        raise _unusable(root, error) from None
    return fd


def _make_directory(path: Path) -> None:
    try:
        durable.make_directory(path)
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> CacheError:
    return CacheError(
        f"cannot use the cache {path}: {error.strerror}; "
        "make it writable or set another root directory"
    )
