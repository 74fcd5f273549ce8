"""The thread that keeps the cache within its bounds, and what it does when it is asked.

Which bytes go is decided in eviction.py; why somebody wants a blob is not known here.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.cache.blob import Blob
from snapshotter.cache.errors import CacheError
from snapshotter.cache.eviction import HUGE, Candidate, Eviction, Kind, choose, tail
from snapshotter.cache.store import BlobStore
from snapshotter.units import format_size

log = structlog.get_logger(__name__)

_TICK = 60.0
"""Seconds between looks at the disk, of which others use a part too."""
_PAUSE = 1.0
"""Seconds between two passes under pressure: each looks at everything."""
_AGAIN = 10.0
"""Seconds after a pass that did not free enough: what was in use may not be any more."""


class Users(Protocol):
    """Who uses blobs of the cache; thread-safe."""

    def pinned(self) -> Collection[Digest]:
        """Blobs that stay."""

    def reads_itself(self, blob: Blob) -> bool:
        """Whether somebody has the blob's file open so that the kernel reads it by itself."""

    def withdraw(self, blob: Blob) -> bool:
        """Take the file from the kernel until it is complete again; False when that cannot be."""

    def evicted(self, blob: Blob) -> None:
        """Bytes of it are gone."""

    def made_room(self) -> None:
        """The cache takes bytes again."""


class Nobody:
    """No user but those who hold blobs."""

    def pinned(self) -> Collection[Digest]:
        return ()

    def reads_itself(self, blob: Blob) -> bool:  # noqa: ARG002
        return False

    def withdraw(self, blob: Blob) -> bool:  # noqa: ARG002
        return True

    def evicted(self, blob: Blob) -> None:
        pass

    def made_room(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Freed:
    """Bytes that were given back, or would be."""

    digest: Digest
    kind: Kind
    bytes: int
    reason: str
    """``unwanted``: no model has it any more. ``space``: it was the least recently used."""
    whole: bool
    models: tuple[str, ...] = ()


class Evictor:
    """Looks after one store, in its own thread and for whoever calls. Thread-safe."""

    def __init__(self, store: BlobStore, users: Users | None = None, *, huge: int = HUGE) -> None:
        self._store = store
        self._users = users or Nobody()
        self._huge = huge
        self._one = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self.evicted_bytes = 0
        """Given back since the start, for whatever reason."""
        self._thread = threading.Thread(target=self._run, name="modelpack-evict", daemon=True)
        store.space.on_pressure = self._wake.set
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._wake.set()
        self._thread.join()
        with self._one:
            pass  # what somebody else asked for

    def free(
        self, unwanted: Mapping[tuple[Kind, Digest], tuple[str, ...]], *, dry_run: bool = False
    ) -> list[Freed]:
        """Remove what nobody wants; but not what is in use all the same. Slow.

        ``unwanted`` says of which models it was.
        """
        with self._one:
            freed = []
            pinned = self._users.pinned()
            candidates = self._store.candidates()
            if any(one.mounted and (one.kind, one.digest) in unwanted for one in candidates):
                gc.collect()  # held in a cycle, perhaps, by what nobody uses any more
                candidates = self._store.candidates()
            for one in candidates:
                models = unwanted.get((one.kind, one.digest))
                if models is None or one.mounted or one.digest in pinned:
                    continue
                if count := self._remove(one, dry_run=dry_run):
                    freed.append(Freed(one.digest, one.kind, count, "unwanted", True, models))
            return self._done(freed, dry_run=dry_run)

    def make_room(
        self, *, dry_run: bool = False, without: Collection[tuple[Kind, Digest]] = ()
    ) -> list[Freed]:
        """Evict what is too much, if anything is. Slow.

        In a dry run ``without`` is what would be gone by then.
        """
        with self._one:
            space = self._store.space
            space.measure(self._store.allocated)
            excess = space.excess()
            pinned = self._users.pinned()
            there, gone = [], 0
            for one in self._store.candidates():
                if (one.kind, one.digest) in without:
                    gone += one.allocated
                else:
                    there.append(_pinned(one) if one.digest in pinned else one)
            excess -= gone
            freed = self._evict(there, excess, float("-inf"), dry_run=dry_run)
            excess -= sum(one.bytes for one in freed)
            if excess > 0 and (space.used - gone > space.allowed if dry_run else space.shortage()):
                left = {(one.kind, one.digest) for one in freed}
                there = [one for one in there if (one.kind, one.digest) not in left]
                idle_since = time.time() - self._store.options.in_use
                freed += self._evict(there, excess, idle_since, dry_run=dry_run)
            return self._done(freed, dry_run=dry_run)

    def _run(self) -> None:
        wait = _TICK
        while not self._closing.is_set():
            pressed = self._wake.wait(wait)
            self._wake.clear()
            if self._closing.is_set():
                return
            try:
                self._store.keep_uses()
                self._tell(self.make_room())
            except Exception:
                log.exception("eviction failed unexpectedly")
            wait = _AGAIN if self._store.space.excess() else _TICK
            if pressed:
                self._closing.wait(_PAUSE)

    def _tell(self, freed: list[Freed]) -> None:
        if freed:
            log.info(
                "cache evicted",
                freed=format_size(sum(one.bytes for one in freed)),
                blobs=len(freed),
                used=format_size(self._store.space.used),
                allowed=format_size(self._store.space.allowed),
            )

    def _done(self, freed: list[Freed], *, dry_run: bool) -> list[Freed]:
        if not dry_run:
            self._store.space.measure(self._store.allocated)
            self.evicted_bytes += sum(one.bytes for one in freed)
            if self._store.space.plenty:
                self._users.made_room()
        return freed

    def _evict(
        self, candidates: list[Candidate], excess: int, idle_since: float, *, dry_run: bool
    ) -> list[Freed]:
        freed: list[Freed] = []
        left = {(one.kind, one.digest): one for one in candidates}
        # Which of them the kernel reads shows only when they are tried: then others must go.
        while excess > 0 and not self._closing.is_set():
            chosen = choose(left.values(), excess, idle_since=idle_since, huge=self._huge)
            if not chosen:
                break
            for eviction in chosen:
                one = eviction.candidate
                del left[one.kind, one.digest]
                if count := self._evict_one(eviction, dry_run=dry_run):
                    excess -= count
                    whole = eviction.wanted is None
                    freed.append(Freed(one.digest, one.kind, count, "space", whole))
        return freed

    def _evict_one(self, eviction: Eviction, *, dry_run: bool) -> int:
        """Bytes given back; 0 when it is being read by the kernel, or the disk refuses."""
        one = eviction.candidate
        if not one.mounted and eviction.wanted is None:
            return self._remove(one, dry_run=dry_run)
        try:
            if not dry_run:
                return self._punch(eviction)
            if self._users.reads_itself(self._store.open(one.digest, one.size)):
                return 0
            return eviction.wanted or one.allocated
        except CacheError as error:
            log.warning("not evicted", blob=one.digest, error=str(error))
            return 0

    def _remove(self, one: Candidate, *, dry_run: bool) -> int:
        """Bytes freed; 0 when somebody has just begun to use it, or the disk refuses."""
        try:
            if dry_run:
                lent = one.kind is Kind.BLOB and self._store.lent(one.digest)
                return 0 if lent else one.allocated
            return one.allocated if self._store.remove(one.digest, one.kind) else 0
        except CacheError as error:
            log.warning("not evicted", blob=one.digest, error=str(error))
            return 0

    def _punch(self, eviction: Eviction) -> int:
        one = eviction.candidate
        blob = self._store.open(one.digest, one.size)
        if not self._users.withdraw(blob):
            return 0
        ranges = [(0, blob.size)]
        if eviction.wanted is not None:
            ranges = tail(list(blob.present), eviction.wanted) or ranges
        before = blob.allocated_bytes
        if not blob.evict(ranges):
            return 0
        self._users.evicted(blob)
        # Writing the map made the directory look as if the blob had just been used.
        self._store.note_use(one.digest, one.kind, one.used_at)
        return max(0, before - blob.allocated_bytes)


def _pinned(one: Candidate) -> Candidate:
    return Candidate(
        one.digest, one.size, one.allocated, one.used_at, one.kind, one.mounted, pinned=True
    )
