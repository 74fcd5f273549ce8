"""What follows when a blob was hashed, came wrong, or was lost by the disk.

A blob that came wrong is not served until its time to be asked for again has come, and then only
behind a gate. Its hosts are asked last meanwhile.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping

import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import CacheError, Unreadable
from snapshotter.cache.quarantine import Quarantine
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.gate import Below, Gate
from snapshotter.fetch.records import Download
from snapshotter.fetch.state import State
from snapshotter.fetch.strict import StrictGate
from snapshotter.fetch.worker import hand_over

log = structlog.get_logger(__name__)


class Verdicts:
    """Told by the verifier, from its thread, and by whoever finds something wrong. Thread-safe."""

    def __init__(
        self,
        below: Below,
        lock: threading.Lock,
        state: State,
        downloads: Mapping[Digest, Download],
        quarantine: Quarantine | None,
        *,
        on_verified: Callable[[Blob], None],
        on_bad: Callable[[Blob], None],
    ) -> None:
        """``lock`` guards ``state``; ``on_verified`` and ``on_bad`` are told of each blob last."""
        self._below = below
        self._lock = lock
        self._state = state
        self._downloads = downloads
        self._quarantine = quarantine
        self._on_verified = on_verified
        self._on_bad = on_bad

    def verified(self, blob: Blob) -> None:
        """All of ``blob`` was hashed and is right."""
        self._below.stats.count_blob(right=True)
        try:
            blob.flush()  # the kernel must read nothing by itself that the disk may not keep
        except CacheError as error:
            log.warning("verified blob not durable", digest=blob.digest, error=str(error))
        if self._quarantine is not None:
            self._quarantine.acquit(blob.digest)
        self._on_verified(blob)
        self.settle(blob, None)

    def condemn(self, blob: Blob, error: CacheError) -> None:
        """Bytes of ``blob`` were found wrong and were dropped; if all, none is served any more."""
        if not isinstance(error, Unreadable):
            self._below.stats.count_blob(right=False)
        sources, waiting = [], []
        with self._lock:
            download = self._downloads.get(blob.digest)
            if download is not None and blob.state is BlobState.BAD:
                sources = self._put_away(download, str(error))
                waiting = [self._state.drop(read) for read in list(download.reads)]
        for read in waiting:
            hand_over(read, FetchError(str(error)))
        if blob.state is BlobState.BAD:
            if self._quarantine is not None:
                record = self._quarantine.condemn(blob.digest, blob.size, sources, str(error))
                if download is not None:
                    download.bad_until = record.again_at
            self.settle(blob, error)
        self._on_bad(blob)

    def sift(self, blob: Blob) -> bool:
        """Drop only what is wrong of ``blob``, whose hash is another; False if nobody knows."""
        gate = self._gate(blob)
        return gate is not None and gate.sift()

    def settle(self, blob: Blob, error: Exception | None) -> None:
        """Let go on who waits at the gate of ``blob``, which was hashed or cannot be."""
        if (gate := self._gate(blob)) is not None:
            gate.settled(error)

    def unreadable(self, blob: Blob, error: CacheError) -> None:
        """The disk did not give bytes of ``blob`` to be hashed."""
        assert isinstance(error, Unreadable)
        self.lost(blob, error)
        self.settle(blob, None)

    def lost(self, blob: Blob, error: Unreadable) -> None:
        """The disk did not give bytes of ``blob``: nothing of it counts any more. Quick."""
        log.warning("cached blob dropped, it comes anew", digest=blob.digest, error=str(error))
        blob.lose()
        with self._lock:
            download = self._downloads.get(blob.digest)
            if download is not None:
                self._state.complete_again(download)
        self._below.submit(lambda: self._on_bad(blob))

    def remember(self, download: Download) -> None:
        """With the lock held: the blob may be known to come wrong, also from an earlier life."""
        blob = download.blob
        if (bad := download.why_bad) is not None:
            download.bad, download.bad_until = bad, math.inf
        record = self._quarantine.get(blob.digest) if self._quarantine is not None else None
        if record is not None and blob.state is not BlobState.VERIFIED:
            download.bad, download.bad_until = record.why, record.again_at
            download.gate = StrictGate(blob, self._below)

    def forgive(self, download: Download) -> None:
        """Ask again for a blob that came wrong, if its time has come."""
        with self._lock:
            if download.bad is not None and time.time() >= download.bad_until:
                download.blob.forgive()
                self._state.begin_again(download)

    def _gate(self, blob: Blob) -> Gate | None:
        download = self._downloads.get(blob.digest)
        return download.gate if download is not None else None

    def _put_away(self, download: Download, why: str) -> list[str]:
        """With the lock held: nothing of the blob is served, later nothing that was not hashed,
        and other hosts are asked first. What those that gave it are called."""
        origins = [model.origins[download] for model in self._state.models_with(download)]
        for origin in origins:
            origin.distrust()
        download.bad, download.bad_until = why, math.inf
        download.gate = download.gate or StrictGate(download.blob, self._below)
        return [origin.name for origin in origins]
