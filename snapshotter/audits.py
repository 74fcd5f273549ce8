"""`modelpack verify`, in the daemon and without one: which blobs to look at, and what was found.

Runs are streams of JSON objects: first ``{"total_bytes": n}``, then ``{"hashed_bytes": n}``
now and then, ``{"blob": {...}}`` for each blob, at last ``{"done": true}``.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.manifest import Manifest
from snapshotter.cache.audit import Target, audit, everything, on_disk
from snapshotter.cache.blob import Blob
from snapshotter.cache.documents import Documents
from snapshotter.cache.errors import CacheError
from snapshotter.cache.store import BlobStore
from snapshotter.errors import ModelpackError
from snapshotter.mounts.trust import Trust

_TELL = 16 << 20
"""Bytes between two reports of progress."""


class NothingKnown(ModelpackError):
    """The model was never mounted from this cache."""


class AuditRunning(ModelpackError):
    """One at a time: each takes a core and the disk."""


class Audits:
    """Verifies blobs of one store again, one run at a time."""

    def __init__(
        self,
        store: BlobStore,
        documents: Documents,
        trust: Trust | None = None,
        on_wrong: Callable[[Blob, CacheError], None] = lambda *_: None,
    ) -> None:
        self._store = store
        self._documents = documents
        self._trust = trust
        self._on_wrong = on_wrong
        self._running = threading.Lock()

    def run(self, manifest: Digest | None) -> Iterator[dict[str, Any]]:
        """Look at the blobs of the model with this manifest, or at all.

        Raises :class:`NothingKnown` or :class:`AuditRunning` at once; closing the iterator
        stops the run.
        """
        if not self._running.acquire(blocking=False):
            raise AuditRunning("blobs are being verified already: wait for that to end")
        try:
            targets = self._of(manifest) if manifest is not None else self._all()
        except BaseException:
            self._running.release()
            raise
        return self._run(targets)

    def _run(self, targets: list[Target]) -> Iterator[dict[str, Any]]:
        try:
            yield {"total_bytes": sum(self._present(target) for target in targets)}
            for target in targets:
                yield from self._one(target)
            yield {"done": True}
        finally:
            self._running.release()

    def _one(self, target: Target) -> Iterator[dict[str, Any]]:
        steps = audit(self._store, target, self._on_wrong)
        told = 0
        while True:
            try:
                told += next(steps)
            except StopIteration as done:
                yield {"hashed_bytes": told}
                yield {"blob": dataclasses.asdict(done.value)}
                return
            if told >= _TELL:
                yield {"hashed_bytes": told}
                told = 0

    def _present(self, target: Target) -> int:
        try:
            return self._store.open(target.digest, target.size).present_bytes
        except CacheError:
            return 0

    def _of(self, digest: Digest) -> list[Target]:
        manifest = self._documents.manifest(digest)
        if manifest is None:
            raise NothingKnown(
                f"{digest} is not known to {self._store.root}: it was never mounted from there"
            )
        return on_disk(self._store, self._targets(manifest))

    def _all(self) -> list[Target]:
        known: dict[Digest, Target] = {}
        for digest in self._documents.digests():
            manifest = self._documents.manifest(digest)
            if manifest is not None:
                for target in self._targets(manifest):
                    if target.chunks is not None or target.digest not in known:
                        known[target.digest] = target
        return [known.get(target.digest, target) for target in everything(self._store)]

    def _targets(self, manifest: Manifest) -> list[Target]:
        chunks = self._trust.known(manifest) if self._trust is not None else {}
        layers = {layer.digest: layer for layer in manifest.layers}
        return [
            Target(layer.digest, layer.size, chunks.get(layer.digest)) for layer in layers.values()
        ]
