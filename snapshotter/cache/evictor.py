"""The thread that keeps the cache within its bounds, and what it does when asked.

Two reasons to let bytes go: nobody wants their model any more, or the space is needed
(which bytes then is decided in eviction.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import structlog

from snapshotter.cache.claims import Claim
from snapshotter.cache.errors import CacheError
from snapshotter.cache.eviction import Candidate, Eviction, choose, tail
from snapshotter.errors import ModelpackError
from snapshotter.units import format_size

if TYPE_CHECKING:
    from snapshotter.cache.store import BlobStore

log = structlog.get_logger(__name__)

_TICK = 60.0
"""Seconds between looks at the disk and at who still wants what."""
_PAUSE = 1.0
"""Seconds between two passes under pressure: each looks at every blob."""

StillWanted = Callable[[Collection[str]], Iterable[str]]
"""Of these names of claims, those that somebody still knows."""


@dataclass(frozen=True, slots=True)
class Freed:
    """Bytes of a blob that were given back, or would be."""

    digest: str
    bytes: int
    reason: str
    """``unwanted``: no model has it any more. ``space``: it was the least recently used."""
    whole: bool
    models: tuple[str, ...] = ()


@dataclass(slots=True)
class Collected:
    """What one collection did, or would do."""

    freed: list[Freed] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def freed_bytes(self) -> int:
        return sum(one.bytes for one in self.freed)

    def describe(self) -> dict[str, Any]:
        return {
            "freed_bytes": self.freed_bytes,
            "blobs": [asdict(one) for one in self.freed],
            "failures": self.failures,
        }


class Evictor:
    """Looks after one store, from its own thread and for whoever calls :meth:`collect`."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._one = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self.still_wanted: StillWanted = lambda _: ()
        """Asked before an unmounted model's blobs are freed; raise when it is not known."""
        self.evicted_bytes = 0
        """Bytes given back since the start."""
        self._thread = threading.Thread(target=self._run, name="modelpack-evict", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """The cache is about to be full."""
        self._wake.set()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join()
        with self._one:
            pass  # a collection somebody asked for

    def collect(self, *, dry_run: bool = False, everything: bool = False) -> Collected:
        """Free what nobody wants, then what is too much. Slow; one at a time.

        ``everything``: of models that are neither mounted nor pinned, whatever their grace.
        """
        with self._one:
            if self._closing.is_set():
                raise CacheError(f"the cache {self._store.root} is closed")
            collected = Collected()
            lapsed = self._lapsed(everything=everything)
            gone = self._free_unwanted(collected, lapsed, dry_run=dry_run, everything=everything)
            self._free_excess(collected, gone, dry_run=dry_run)
            if not dry_run:
                self._store.space.measured(self._store.allocated())
                self.evicted_bytes += collected.freed_bytes
            return collected

    def _run(self) -> None:
        while not self._closing.is_set():
            pressed = self._wake.wait(_TICK)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self._store.keep_uses()
                collected = self.collect()
                if collected.freed:
                    log.info(
                        "cache evicted",
                        bytes=collected.freed_bytes,
                        blobs=len(collected.freed),
                        used=format_size(self._store.space.used),
                        allowed=format_size(self._store.space.allowed),
                    )
                for failure in collected.failures:
                    log.warning("not evicted", error=failure)
            except Exception:
                log.exception("eviction failed unexpectedly")
            if pressed:
                self._closing.wait(_PAUSE)

    # Nobody wants it

    def _lapsed(self, *, everything: bool) -> list[Claim]:
        """Claims that are over; those somebody still knows begin anew."""
        claims = self._store.claims
        now = time.time()
        over = claims.lapsed(float("inf") if everything else now - self._store.options.grace)
        if everything:
            return over
        idle = [claim.name for claim in claims.lapsed(float("inf"))]
        if not idle:
            return []
        try:
            wanted = set(self.still_wanted(idle))
        except ModelpackError as error:
            log.debug("not known who wants what, so it stays", error=str(error))
            return []
        claims.wanted(wanted)
        return [claim for claim in over if claim.name not in wanted]

    def _free_unwanted(
        self, collected: Collected, lapsed: list[Claim], *, dry_run: bool, everything: bool
    ) -> set[str]:
        names = {claim.name for claim in lapsed}
        claimed = {
            digest
            for claim in self._store.claims.all()
            if claim.name not in names
            for digest in claim.blobs
        }
        unclaimed_since = time.time() - (0 if everything else self._store.options.grace)
        ours = {digest for claim in lapsed for digest in claim.blobs}
        gone: set[str] = set()
        for blob in self._store.candidates():
            if blob.digest in claimed or blob.mounted or blob.kept:
                continue
            if blob.digest in ours or blob.used_at < unclaimed_since:
                models = tuple(claim.title for claim in lapsed if blob.digest in claim.blobs)
                if self._remove(collected, blob, "unwanted", models, dry_run=dry_run):
                    gone.add(blob.digest)
        if names and not dry_run:
            self._store.claims.forget(names)
        return gone

    # The space is needed

    def _free_excess(self, collected: Collected, gone: set[str], *, dry_run: bool) -> None:
        store = self._store
        store.space.measured(store.allocated())
        excess = store.space.excess()
        if dry_run:
            excess -= collected.freed_bytes
        candidates = {blob.digest: blob for blob in store.candidates() if blob.digest not in gone}
        idle_since = time.time() - store.options.in_use
        # Which of them the kernel reads shows only when they are tried: then others must go.
        while excess > 0:
            chosen = choose(candidates.values(), excess, idle_since=idle_since)
            if not chosen:
                return
            for eviction in chosen:
                blob = candidates.pop(eviction.digest)
                if not blob.mounted and eviction.wanted is None:
                    excess -= self._remove(collected, blob, "space", (), dry_run=dry_run)
                else:
                    excess -= self._shrink(collected, blob, eviction, dry_run=dry_run)

    def _remove(
        self,
        collected: Collected,
        blob: Candidate,
        reason: str,
        models: tuple[str, ...],
        *,
        dry_run: bool,
    ) -> int:
        """Bytes freed; 0 when somebody has just begun to use it, or the disk refuses."""
        try:
            if self._store.lent(blob.digest) if dry_run else not self._store.remove(blob.digest):
                return 0
        except CacheError as error:
            collected.failures.append(str(error))
            return 0
        collected.freed.append(Freed(blob.digest, blob.allocated, reason, True, models))
        return blob.allocated

    def _shrink(
        self, collected: Collected, candidate: Candidate, eviction: Eviction, *, dry_run: bool
    ) -> int:
        """Bytes freed; 0 when the kernel reads it by itself, or the disk refuses."""
        whole = eviction.wanted is None
        try:
            if dry_run:
                lent = self._store.lent(candidate.digest)
                count = 0 if lent else eviction.wanted or candidate.allocated
            else:
                count = self._punch(candidate, eviction)
        except CacheError as error:
            collected.failures.append(str(error))
            return 0
        if count:
            collected.freed.append(Freed(candidate.digest, count, "space", whole))
        return count

    def _punch(self, candidate: Candidate, eviction: Eviction) -> int:
        blob = self._store.open(candidate.digest, candidate.size)
        ranges = [(0, blob.size)]
        if eviction.wanted is not None:
            ranges = tail(list(blob.present), eviction.wanted) or ranges
        before = blob.allocated_bytes
        if not blob.evict(ranges):
            return 0
        self._store.used(candidate.digest, candidate.used_at)
        return max(0, before - blob.allocated_bytes)
