"""The thread that hashes complete blobs, one after the other, when nothing better is to do.

A core that hashes is a core that does not copy: on a small node verifying a shard
while the next one arrives would cost a third of the throughput. So it waits for a
lull, but not for ever.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable

import structlog

from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import CacheError, DigestMismatch

log = structlog.get_logger(__name__)

PATIENCE = 60.0
"""Seconds a complete blob waits for a lull at most."""
_LOOK = 0.25


class Verifier:
    """Verifies the blobs given to `put`; calls ``on_verified`` or ``on_bad`` from its thread.

    ``busy`` says whether bytes are being fetched, for which it makes way.
    """

    def __init__(
        self,
        on_verified: Callable[[Blob], None],
        on_bad: Callable[[Blob, DigestMismatch], None],
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._busy = busy
        self._on_verified = on_verified
        self._on_bad = on_bad
        self._queue: queue.SimpleQueue[tuple[Blob, float] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting: set[str] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelpack-verify", daemon=True)
        self._thread.start()

    def put(self, blob: Blob) -> None:
        """Verify a complete ``blob`` soon, unless it is about to be already."""
        with self._lock:
            if blob.digest not in self._waiting:
                self._waiting.add(blob.digest)
                self._queue.put((blob, time.monotonic() + PATIENCE))

    def close(self) -> None:
        self._closed.set()
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        # Linux gives every thread its own nice value (setpriority(2), NOTES): hashing
        # gives way to readers. Not further down, since a thread that is not scheduled
        # while it holds the interpreter's lock holds up all others.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while self._verify_next():
            pass

    def _verify_next(self) -> bool:
        task = self._queue.get()
        if task is None:
            return False
        blob, latest = task
        while self._busy() and time.monotonic() < latest and not self._closed.is_set():
            self._closed.wait(_LOOK)
        if self._closed.is_set():
            return False
        try:
            self._verify(blob)
        except Exception:
            log.exception("verification failed unexpectedly", digest=blob.digest)
        finally:
            with self._lock:
                self._waiting.discard(blob.digest)
        return True

    def _verify(self, blob: Blob) -> None:
        if blob.state is not BlobState.COMPLETE:
            return
        try:
            verified = blob.verify(self._closed.is_set)
        except DigestMismatch as error:
            log.error("wrong bytes", digest=blob.digest, error=str(error))
            self._on_bad(blob, error)
        except CacheError as error:
            log.warning("blob not verified", digest=blob.digest, error=str(error))
        else:
            if verified:
                self._on_verified(blob)
