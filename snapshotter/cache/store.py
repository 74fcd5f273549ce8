"""All blobs of one cache directory, and the thread that makes their bytes durable.

``<root>/blobs/<algorithm>/<hex>/{data,map}``. One process at a time. The modification time
of a blob's directory is when it was last used, to the minute.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.cache import durable
from snapshotter.cache.blob import Blob
from snapshotter.cache.claims import Claims
from snapshotter.cache.errors import CacheError, CacheInUse
from snapshotter.cache.eviction import Candidate
from snapshotter.cache.evictor import Evictor
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.quarantine import Quarantine
from snapshotter.cache.space import Space

log = structlog.get_logger(__name__)

_USED_STEP = 60.0
"""Seconds by which the last use on the disk may lag behind."""


class BlobStore:
    """The blob cache under ``root``, which is made where it is missing (mode 0700).

    Raises :class:`CacheError` when ``root`` cannot be written or another process
    uses it. Thread-safe.
    """

    def __init__(self, root: Path, options: CacheOptions) -> None:
        self.root = root
        self.options = options
        self._locked: int | None = _lock(root)
        try:
            self.claims = Claims(root / "claims")
            self.quarantine = Quarantine(root / "quarantine")
            shutil.rmtree(root / "removed", ignore_errors=True)
            self.space = Space(root, options, self.allocated(), lambda: self.evictor.wake())
        except (OSError, CacheError) as error:
            os.close(self._locked)
            raise _unusable(root, error) if isinstance(error, OSError) else error from None
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
        self.evictor = Evictor(self)

    def open(self, digest: Digest, size: int) -> Blob:
        """The blob, with what the cache has of it: one object for everybody who asks.

        It needs no closing: let go of it. Raises :class:`CacheError` when its files
        cannot be used or it is known to have another size.
        """
        with self._lock:
            if self._locked is None:
                raise CacheError(f"the cache {self.root} is closed")
            blob = self._blobs.get(digest)
            if blob is None:
                directory = self._directory(digest)
                _make_directory(directory)
                blob = self._blobs[digest] = Blob(
                    directory, digest, size, self._changed, self.space.admit, self.quarantine
                )
        if blob.size != size:
            raise CacheError(
                f"{digest} is in use with {blob.size} bytes, but the artifact says {size}: "
                "one of the two artifacts is wrong"
            )
        return blob

    def blobs(self) -> list[Blob]:
        """The blobs in use."""
        with self._lock:
            return list(self._blobs.values())

    def allocated(self) -> int:
        """Bytes of disk that all blobs take, in use or not."""
        return sum(allocated for _, _, allocated, _ in self._scan())

    def candidates(self) -> list[Candidate]:
        """Every blob on the disk, as eviction sees it."""
        pinned = self.claims.pinned_blobs()
        found = []
        for digest, size, allocated, used_at in self._scan():
            with self._lock:
                blob = self._blobs.get(digest)
            found.append(
                Candidate(
                    digest=digest,
                    size=size,
                    allocated=allocated,
                    used_at=max(used_at, blob.used_at) if blob is not None else used_at,
                    mounted=blob is not None,
                    kept=digest in pinned,
                )
            )
            del blob
        return found

    def remove(self, digest: Digest) -> bool:
        """Delete a blob nobody uses; False when somebody does. Raises :class:`CacheError`.

        It is gone at once and as a whole: what a crash leaves is nobody's.
        """
        directory = self._directory(digest)
        if self.lent(digest):
            return False
        aside = self.root / "removed" / f"{algorithm(digest)}-{encoded(digest)}"
        try:
            with self._lock:
                if digest in self._blobs or digest in self._dirty:
                    return False
                _make_directory(aside.parent)
                shutil.rmtree(aside, ignore_errors=True)
                directory.rename(aside)
            durable.sync_directory(directory.parent)
            shutil.rmtree(aside)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise CacheError(f"cannot remove {directory} of the cache: {error.strerror}") from error
        return True

    def lent(self, digest: Digest) -> bool:
        """Whether the kernel reads the blob's file by itself: see :meth:`Blob.lend`."""
        try:
            fd = os.open(self._directory(digest) / "data", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _directory(self, digest: Digest) -> Path:
        return self.root / "blobs" / algorithm(digest) / encoded(digest)

    def _scan(self) -> Iterator[tuple[Digest, int, int, float]]:
        """Digest, size, bytes on the disk and last use of all blobs."""
        for directory in (self.root / "blobs").glob("*/*"):
            try:
                data, used_at = (directory / "data").stat(), directory.stat().st_mtime
            except (FileNotFoundError, NotADirectoryError):
                continue
            digest = Digest(f"{directory.parent.name}:{directory.name}")
            yield digest, data.st_size, data.st_blocks * 512, used_at

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
        self.claims.save()

    def keep_uses(self) -> None:
        """Write down when the blobs in use were last used."""
        for blob in self.blobs():
            try:
                if blob.used_at > self._directory(blob.digest).stat().st_mtime + _USED_STEP:
                    self.used(blob.digest, blob.used_at)
            except OSError:
                continue

    def used(self, digest: Digest, at: float) -> None:
        """Write down that a blob was last used ``at``, seconds since the epoch; a hint."""
        try:
            os.utime(self._directory(digest), (at, at))
        except OSError as error:
            log.debug("last use not kept", digest=digest, error=str(error))

    def close(self) -> None:
        """Flush, and let another process have the directory. Blobs in use can still be read."""
        with self._lock:
            locked, self._locked = self._locked, None
        if locked is None:
            return
        self.evictor.close()
        self.keep_uses()
        self._closing = True
        self._wake.set()
        self._flusher.join()
        self._dirty.clear()  # what could not be flushed is not kept alive by us any more
        os.close(locked)

    def _changed(self, blob: Blob, count: int) -> None:
        with self._lock:
            self._dirty[blob.digest] = blob
            self._unflushed += count
            due = self._unflushed >= self.options.flush_bytes
        if count:
            self.space.arrived(count)
        if due or blob.complete:
            self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(self.options.flush_interval)
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
    # Path.mkdir(parents=True) would make the parents with the default mode.
    try:
        for directory in (*reversed(path.parents), path):
            if not directory.is_dir():
                directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> CacheError:
    return CacheError(
        f"cannot use the cache {path}: {error.strerror}; "
        "make it writable or set another root directory"
    )
