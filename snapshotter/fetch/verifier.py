"""The thread that hashes blobs from their first byte on, as far as they are there.

A core that hashes is a core that does not copy: on a small node verifying a shard
while the next one arrives would cost a third of the throughput. So it hashes in
lulls, a step at a time, and goes on where it was; what is complete has the better
part behind it then. But it does not wait for a lull for ever, and not at all for a
blob that somebody waits for.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Mapping
from weakref import WeakKeyDictionary, WeakSet

import structlog

from snapshotter.artifact.digest import encoded
from snapshotter.cache.blob import HASH_STEP, Blob, BlobState
from snapshotter.cache.errors import CacheError, DigestMismatch, Unreadable
from snapshotter.cache.verification import Verification

log = structlog.get_logger(__name__)

PATIENCE = 60.0
"""Seconds a complete blob waits for a lull at most."""
_LOOK = 0.25
_NEVER = float("inf")


class Verifier:
    """Hashes the blobs given to `put`; calls ``on_verified`` or ``on_bad`` from its thread.

    ``busy`` says whether bytes are being fetched, for which it makes way. ``sift`` is asked
    to drop only what is wrong of a blob that does not hash to its digest, and says whether it
    could. ``on_unreadable`` is called when the disk did not give a blob, ``on_failed`` when
    hashing it failed otherwise.
    """

    def __init__(
        self,
        on_verified: Callable[[Blob], None],
        on_bad: Callable[[Blob, DigestMismatch], None],
        busy: Callable[[], bool] = lambda: False,
        *,
        sift: Callable[[Blob], bool] = lambda _: False,
        on_unreadable: Callable[[Blob, CacheError], None] = lambda *_: None,
        on_failed: Callable[[Blob, CacheError], None] = lambda *_: None,
    ) -> None:
        self._on_verified = on_verified
        self._on_bad = on_bad
        self._busy = busy
        self._sift = sift
        self._on_unreadable = on_unreadable
        self._on_failed = on_failed
        self._changed = threading.Condition()
        self._due: dict[Blob, float] = {}
        self._urgent: WeakSet[Blob] = WeakSet()
        self._hashed: WeakKeyDictionary[Blob, Verification] = WeakKeyDictionary()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="modelpack-verify", daemon=True)
        self._thread.start()

    def put(self, blob: Blob) -> None:
        """Bytes of ``blob`` have come: hash what follows those hashed before."""
        with self._changed:
            latest = time.monotonic() + PATIENCE if blob.complete else _NEVER
            self._due[blob] = min(self._due.get(blob, _NEVER), latest)
            self._changed.notify()

    def urge(self, blob: Blob) -> None:
        """Somebody waits for ``blob`` to be verified: from now on hash its bytes as they come."""
        with self._changed:
            self._urgent.add(blob)
            self._due.setdefault(blob, _NEVER)
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        # Linux gives every thread its own nice value (setpriority(2), NOTES): hashing
        # gives way to readers. Not further down, since a thread that is not scheduled
        # while it holds the interpreter's lock holds up all others.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        while self._hash_next():
            pass

    def _hash_next(self) -> bool:
        """Hash a step of a blob; False when there will be none any more. Keeps none alive."""
        chosen = self._next()
        if chosen is not None:
            self._step(*chosen)
        return chosen is not None

    def _next(self) -> tuple[Blob, float] | None:
        """Wait for a blob to hash and take it; None when there will be none any more."""
        while True:
            busy = self._busy()
            with self._changed:
                if self._closed:
                    return None
                blob = choose(self._due, self._urgent, time.monotonic(), busy=busy)
                if blob is not None:
                    return blob, self._due.pop(blob)
                self._changed.wait(_LOOK if self._due else None)

    def _step(self, blob: Blob, latest: float) -> None:
        try:
            if self._hash(blob):
                with self._changed:
                    self._due[blob] = min(self._due.get(blob, _NEVER), latest)
        except CacheError as error:
            log.warning("blob not verified", digest=blob.digest, error=str(error))
            self._hashed.pop(blob, None)
            (self._on_unreadable if isinstance(error, Unreadable) else self._on_failed)(blob, error)
        except Exception as error:
            log.exception("verification failed unexpectedly", digest=blob.digest)
            self._hashed.pop(blob, None)
            self._on_failed(blob, CacheError(f"{blob.digest} was not verified: {error!r}"))

    def _hash(self, blob: Blob) -> bool:
        """One step; whether there is more to do for ``blob`` now."""
        if blob.state in (BlobState.VERIFIED, BlobState.BAD):
            return False
        hashed = self._hashed.setdefault(blob, Verification(blob.digest, blob.size))
        count = hashed.advance(blob, HASH_STEP)
        if not hashed.whole:
            return count > 0 or blob.complete
        del self._hashed[blob]
        if hashed.hexdigest() != encoded(blob.digest) and self._sift(blob):
            return False
        try:
            verified = blob.conclude(hashed)
        except DigestMismatch as error:
            log.error("wrong bytes", digest=blob.digest, error=str(error))
            self._on_bad(blob, error)
            return False
        if verified:
            self._on_verified(blob)
        return not verified


def choose(
    due: Mapping[Blob, float], urgent: Collection[Blob], now: float, *, busy: bool
) -> Blob | None:
    """Which blob to hash now: what is waited for, what has waited long, then what is complete.

    ``due`` has the time at which each stops making way. Pure.
    """
    waiting = [blob for blob in due if blob in urgent]
    late = [blob for blob, latest in due.items() if latest <= now]
    complete = [] if busy else [blob for blob, latest in due.items() if latest < _NEVER]
    others = [] if busy else list(due)
    return next(iter([*waiting, *late, *complete, *others]), None)
