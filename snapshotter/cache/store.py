"""All blobs of one cache directory, and the thread that makes their bytes durable.

``<root>/blobs/<algorithm>/<hex>/{data,map}``, beside them what compressed ones became,
``unpacked/<algorithm>/<hex>``, and in ``removed`` what is being deleted. One process at a time.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.cache import durable
from snapshotter.cache.blob import Blob
from snapshotter.cache.documents import parse_name
from snapshotter.cache.errors import CacheError, CacheInUse
from snapshotter.cache.eviction import Candidate, Kind
from snapshotter.cache.files import is_lent
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.quarantine import Quarantine
from snapshotter.cache.space import Space
from snapshotter.locks import Locked, lock_file

log = structlog.get_logger(__name__)

_USED_STEP = 30.0
"""Seconds by which the recorded last use of a blob may lag behind."""
_FOLDERS = {Kind.BLOB: "blobs", Kind.UNPACKED: "unpacked"}


class Held:
    """An unpacked layer that somebody uses: none of it is removed while this is alive."""

    def __init__(self) -> None:
        self.used_at = time.time()


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
            shutil.rmtree(root / "removed", ignore_errors=True)
            _make_directory(root / "removed")  # now: there is no room for it when it is needed
            self.space = Space(root, options, self.allocated())
            self.quarantine = Quarantine(root / "quarantine")
        except (OSError, CacheError) as error:
            os.close(self._locked)
            raise _unusable(root, error) if isinstance(error, OSError) else error from None
        self._lock = threading.Lock()
        self._held: WeakValueDictionary[Digest, Held] = WeakValueDictionary()
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
                blob = Blob(directory, digest, size, self._changed, self.space)
                self._blobs[digest] = blob
        if blob.size != size:
            raise CacheError(
                f"{digest} is in use with {blob.size} bytes, but the artifact says {size}: "
                "one of the two artifacts is wrong"
            )
        return blob

    def hold(self, digest: Digest) -> Held:
        """Keep what the compressed blob ``digest`` became, as long as the answer lives."""
        with self._lock:
            held = self._held.get(digest)
            if held is None:
                held = self._held[digest] = Held()
            return held

    def directory(self, digest: Digest, kind: Kind = Kind.BLOB) -> Path:
        """Where the files of a blob are, if there are any."""
        return Path(f"{self.root}/{_FOLDERS[kind]}/{algorithm(digest)}/{encoded(digest)}")

    def blobs(self) -> list[Blob]:
        """The blobs in use."""
        with self._lock:
            return list(self._blobs.values())

    # What takes space

    def allocated(self) -> int:
        """Bytes of disk that everything takes, in use or not."""
        return sum(allocated for *_, allocated, _ in self._scan())

    def candidates(self) -> list[Candidate]:
        """Everything on the disk, as eviction sees it; pins are not known here."""
        found = []
        for kind, digest, size, allocated, recorded in self._scan():
            with self._lock:
                user = (self._blobs if kind is Kind.BLOB else self._held).get(digest)
            used_at = max(recorded, user.used_at) if user is not None else recorded
            found.append(Candidate(digest, size, allocated, used_at, kind, user is not None))
            del user
        return found

    def remove(self, digest: Digest, kind: Kind = Kind.BLOB) -> bool:
        """Delete what nobody uses; False when somebody does. Raises :class:`CacheError`.

        It is gone at once and as a whole: what a crash leaves of it is in ``removed``.
        """
        directory = self.directory(digest, kind)
        aside = self.root / "removed" / f"{kind}-{algorithm(digest)}-{encoded(digest)}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            with self._lock:
                used = digest in (self._blobs if kind is Kind.BLOB else self._held)
                if used or is_lent(directory / "data"):
                    return False
                directory.rename(aside)
            # The name must be gone for good before any of the files is.
            durable.sync_directory(directory.parent)
            shutil.rmtree(aside)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise CacheError(f"cannot remove {directory} of the cache: {error.strerror}") from error
        return True

    def lent(self, digest: Digest) -> bool:
        """Whether the kernel may be reading the blob's file by itself: see :meth:`Blob.lend`."""
        return is_lent(self.directory(digest) / "data")

    def keep_uses(self) -> None:
        """Write down when what is in use was used last: a hint, so no reason to fail."""
        with self._lock:
            used = [(Kind.BLOB, digest, blob.used_at) for digest, blob in self._blobs.items()]
            used += [(Kind.UNPACKED, digest, held.used_at) for digest, held in self._held.items()]
        for kind, digest, at in used:
            self.note_use(digest, kind, at, step=_USED_STEP)

    def note_use(self, digest: Digest, kind: Kind, at: float, *, step: float = 0) -> None:
        """Let the last use have been ``at``, unless that is recorded but for ``step`` seconds."""
        directory = self.directory(digest, kind)
        try:
            if step == 0 or at > directory.stat().st_mtime + step:
                os.utime(directory, (at, at))
        except OSError as error:
            log.debug("last use not kept", path=str(directory), why=str(error))

    def _scan(self) -> Iterator[tuple[Kind, Digest, int, int, float]]:
        """Kind, digest, size, bytes on the disk and last recorded use of everything."""
        for kind, folder in _FOLDERS.items():
            for directory in (self.root / folder).glob("*/*"):
                try:
                    digest = parse_name(directory.parent.name, directory.name)
                    data, used_at = (directory / "data").stat(), directory.stat().st_mtime
                except (ArtifactError, OSError):
                    continue  # nothing of ours, or removed meanwhile
                yield kind, digest, data.st_size, data.st_blocks * 512, used_at

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
        if due or blob.complete or blob.void:
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
    try:
        return lock_file(root / "lock")
    except Locked as holder:
        raise CacheInUse(
            f"the cache {root} is in use by another process (pid {holder}): "
            "stop that one or set another root"
        ) from None
    except OSError as error:
        raise _unusable(root, error) from None


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
