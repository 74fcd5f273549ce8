"""Who wants which blobs on this node, and what becomes of those that nobody wants.

A model is wanted while it is mounted or pinned, and while containerd has an image of it or
a snapshot that stands for it. When it was last wanted is the time of its manifest's document.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.manifest import Manifest
from snapshotter.artifact.marker import ModelRef
from snapshotter.cache.blob import Blob
from snapshotter.cache.documents import DocumentError, Documents
from snapshotter.cache.eviction import Kind
from snapshotter.cache.evictor import Evictor, Freed
from snapshotter.cache.indexes import TarIndexes
from snapshotter.cache.pins import Pins
from snapshotter.cache.store import BlobStore
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.mounts.table import Mounts
from snapshotter.units import format_size

log = structlog.get_logger(__name__)

_LONGEST_TICK = 60.0
_SHORTEST_TICK = 1.0
"""Seconds between looks at who still wants what: a quarter of the grace, within these."""


class NodeUsers:
    """The users of the cache, for the :class:`Evictor`."""

    def __init__(self, documents: Documents, pins: Pins, mounts: Mounts, fetcher: Fetcher) -> None:
        self._documents = documents
        self._pins = pins
        self._mounts = mounts
        self._fetcher = fetcher

    def pinned(self) -> Collection[Digest]:
        manifests = [self._documents.manifest(pin.digest) for pin in self._pins.all()]
        return {layer.digest for manifest in manifests if manifest for layer in manifest.layers}

    def reads_itself(self, blob: Blob) -> bool:
        return self._mounts.reads_itself(blob)

    def withdraw(self, blob: Blob) -> bool:
        return self._mounts.withdraw(blob)

    def evicted(self, blob: Blob) -> None:
        self._fetcher.evicted(blob)

    def made_room(self) -> None:
        self._fetcher.made_room()


@dataclass(frozen=True, slots=True)
class Collected:
    """What one collection did, or would do."""

    dry_run: bool
    freed: list[Freed]

    def describe(self) -> dict[str, Any]:
        return {
            "dry_run": self.dry_run,
            "freed_bytes": sum(one.bytes for one in self.freed),
            "freed": [asdict(one) for one in self.freed],
        }


class Garbage:
    """Frees what nobody wants, from time to time and when it is asked.

    ``known`` are the manifests that containerd has images of, ``snapshots`` the models that
    snapshots stand for; they raise :class:`ModelpackError` when that is not known, and then
    nothing is freed.
    """

    def __init__(
        self,
        store: BlobStore,
        documents: Documents,
        pins: Pins,
        mounts: Mounts,
        evictor: Evictor,
        *,
        known: Callable[[], Iterable[Digest]],
        snapshots: Callable[[], Iterable[ModelRef]],
    ) -> None:
        self._store = store
        self._indexes = TarIndexes(store.root / "indexes")
        self._documents = documents
        self._pins = pins
        self._mounts = mounts
        self._evictor = evictor
        self._known = known
        self._snapshots = snapshots
        self._one = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="modelpack-garbage", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def collect(self, *, everything: bool = False, dry_run: bool = False) -> Collected:
        """Free what nobody wants and what is too much. Slow; one at a time.

        ``everything``: of models that nobody wants, however short ago somebody did.
        """
        with self._one:
            freed = self._free(everything=everything, dry_run=dry_run)
            without = {(one.kind, one.digest) for one in freed} if dry_run else set()
            freed += self._evictor.make_room(dry_run=dry_run, without=without)
        return Collected(dry_run, freed)

    def _run(self) -> None:
        grace = self._store.options.grace
        tick = max(_SHORTEST_TICK, min(grace / 4, _LONGEST_TICK))
        while not self._closing.wait(tick):
            try:
                with self._one:
                    freed = self._free()
                if freed:
                    size = format_size(sum(one.bytes for one in freed))
                    log.info("freed what nobody wants any more", freed=size, blobs=len(freed))
            except ModelpackError as error:
                log.debug("not known who wants what, so it stays", why=str(error))
            except Exception:
                log.exception("freeing what nobody wants failed unexpectedly")

    def _free(self, *, everything: bool = False, dry_run: bool = False) -> list[Freed]:
        now = time.time()
        before = now if everything else now - self._store.options.grace
        kept: set[Digest] = set()
        lapsed: dict[Digest, Manifest] = {}
        wanted = self._wanted()
        for digest in self._documents.digests():
            manifest = self._documents.manifest(digest)
            if manifest is None:
                continue
            if digest in wanted:
                self._documents.wanted(digest)
            if digest in wanted or self._documents.wanted_at(digest) > before:
                kept.update(layer.digest for layer in manifest.layers)
            else:
                lapsed[digest] = manifest
        freed = self._evictor.free(self._unwanted(kept, lapsed, before), dry_run=dry_run)
        if not dry_run:
            self._forget(lapsed, freed, kept, before)
        return freed

    def _wanted(self) -> set[Digest]:
        return {
            *self._mounts.wanted(),
            *(pin.digest for pin in self._pins.all()),
            *(model.digest for model in self._snapshots()),
            *self._known(),
        }

    def _unwanted(
        self, kept: set[Digest], lapsed: dict[Digest, Manifest], before: float
    ) -> dict[tuple[Kind, Digest], tuple[str, ...]]:
        """What may go, and of which models it was; what is in no manifest at all goes by its
        own last use."""
        models: dict[Digest, list[str]] = {}
        for digest, manifest in lapsed.items():
            for layer in manifest.layers:
                models.setdefault(layer.digest, []).append(digest)
        return {
            (one.kind, one.digest): tuple(models.get(one.digest, ()))
            for one in self._store.candidates()
            if one.digest not in kept and (one.digest in models or one.used_at < before)
        }

    def _forget(
        self, lapsed: dict[Digest, Manifest], freed: list[Freed], kept: set[Digest], before: float
    ) -> None:
        """Documents of models that are gone, unless some of their blobs are still in use."""
        there = {one.digest for one in self._store.candidates()}
        configs = {
            manifest.config.digest
            for digest in self._documents.digests()
            if digest not in lapsed and (manifest := self._documents.manifest(digest))
        }
        for one in freed:
            if one.digest not in kept:
                self._indexes.remove(one.digest)
        for digest, manifest in lapsed.items():
            in_use = any(layer.digest in there - kept for layer in manifest.layers)
            if in_use or self._documents.wanted_at(digest) > before:
                continue
            try:
                self._documents.remove(digest)
                if manifest.config.digest not in configs:
                    self._documents.remove(manifest.config.digest)
            except DocumentError as error:
                log.warning("document not removed", error=str(error))
