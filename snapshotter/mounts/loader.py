"""From a reference to the list of a model's files, with everything needed to read them.

Manifest first, then the headers of tar layers, then the layout. Manifests are kept
as documents, the places of files in tars as indexes, so a mount that worked once
works again while the registry is down.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

import structlog

from snapshotter.artifact.choice import EVERYTHING
from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.artifact.config import diff_ids
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.layers import Archive, archives
from snapshotter.artifact.layout import Layout, layout
from snapshotter.artifact.manifest import MANIFEST_LIMIT, Manifest, is_model, parse
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.rules import STRICT, Rules
from snapshotter.artifact.selection import Selection
from snapshotter.artifact.tar import TarIndex, index_tar
from snapshotter.cache.blob import Blob
from snapshotter.cache.documents import DocumentError, Documents
from snapshotter.cache.indexes import TarIndexes
from snapshotter.cache.store import BlobStore
from snapshotter.fetch.fetcher import Fetcher, LoadedModel, ReadResult
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.plans import unwanted
from snapshotter.mounts.trust import Trust
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.registry.reference import Reference
from snapshotter.unpack.errors import UnpackError
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.unpacked import Unpacked
from snapshotter.unpack.unpacker import Unpacker

log = structlog.get_logger(__name__)

_AT_ONCE = 8
"""Tar layers whose headers are read at the same time: each is one round trip after the other."""


class Source(Protocol):
    """What is asked of a :class:`~snapshotter.registry.client.Registry`."""

    def manifest(
        self, ref: Reference, *, blobs_follow: bool = False
    ) -> tuple[Descriptor, bytes]: ...
    def blob(self, ref: Reference, descriptor: Descriptor, *, limit: int) -> bytes: ...
    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin: ...
    def also_at(self, registry: str, repository: str, digests: Iterable[Digest]) -> None: ...


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose tree is known and whose bytes can be asked for."""

    ref: ModelRef
    manifest: Manifest
    layout: Layout
    blobs: Mapping[Digest, Blob]
    """Those that are read as they are."""
    loaded: LoadedModel
    unpacked: Mapping[Digest, Unpacked] = field(default_factory=dict)
    """Compressed layers, by the digest of the compressed blob."""
    chosen: Selection = EVERYTHING
    """What :attr:`layout` was chosen by: what was asked for, and what the node leaves out."""

    @property
    def plain(self) -> Layout:
        """The part of :attr:`layout` that lies in :attr:`blobs`, to plan fetching by."""
        if not self.unpacked:
            return self.layout
        return replace(
            self.layout,
            files=tuple(file for file in self.layout.files if not file.compressed),
            blobs=tuple(blob for blob in self.layout.blobs if blob.digest in self.blobs),
        )


class Loader:
    """Brings the things together that a model needs: registry, documents, cache, fetcher.

    A mount waits ``patience`` seconds at most for the names in compressed layers. Without
    an ``unpacker`` it has one of its own, with the default settings.
    """

    def __init__(
        self,
        registry: Source,
        documents: Documents,
        store: BlobStore,
        fetcher: Fetcher,
        trust: Trust | None = None,
        *,
        unpacker: Unpacker | None = None,
        rules: Rules = STRICT,
        patience: float = math.inf,
    ) -> None:
        self._registry = registry
        self._documents = documents
        self._indexes_kept = TarIndexes(store.root / "indexes")
        self._store = store
        self._fetcher = fetcher
        self._trust = trust
        self._unpacker = unpacker or Unpacker(store, fetcher, UnpackOptions())
        self._rules = rules
        self._patience = patience

    def load(self, ref: ModelRef, chosen: Selection | None = None) -> Model:
        """The files of ``ref`` that are ``chosen``, by default those it asks for itself.

        Raises :class:`ModelpackError`; nothing stays behind then but what was cached.
        """
        chosen = ref.selection if chosen is None else chosen
        manifest = self._manifest(ref)
        chunks = self._trust.chunks(ref, manifest) if self._trust is not None else {}
        found = archives(manifest, chosen)
        unpacked = self._claim(ref, manifest, [one for one in found if one.encoding.compressed])
        try:
            plainly = [one for one in found if not one.encoding.compressed]
            indexes = self._indexes(ref, plainly, chunks)
            indexes |= self._unpacked_indexes(unpacked)
            described = layout(manifest, indexes, self._rules, chosen)
            for warning in described.warnings:
                log.warning("model is unusual", model=str(ref), warning=warning)
            self._let_go(unpacked, described)
            plain = [blob for blob in described.blobs if blob.digest not in unpacked]
            blobs = self._open(plain)
            loaded = self._fetcher.add_model(
                self._origins(ref, plain, blobs), chunks, unwanted(described)
            )
        except BaseException as error:
            # Out of time is no reason to stop: the next attempt goes on from there.
            self._release(unpacked, go_on=isinstance(error, UnpackError))
            raise
        return Model(ref, manifest, described, blobs, loaded, unpacked, chosen)

    def also_at(self, model: Model, ref: ModelRef) -> None:
        """``model`` was asked for by ``ref``, another place of the same manifest."""
        digests = [layer.digest for layer in model.manifest.layers]
        self._registry.also_at(ref.registry, ref.repository, digests)

    def unload(self, model: Model) -> None:
        self._fetcher.remove_model(model.loaded)
        self._release(model.unpacked)

    def _manifest(self, ref: ModelRef) -> Manifest:
        self._documents.wanted(ref.digest)
        raw = self._documents.get(ref.digest)
        if raw is None:
            reference = Reference(ref.registry, ref.repository, None, ref.digest)
            _, raw = self._registry.manifest(reference, blobs_follow=True)
            self._keep(ref, ref.digest, raw)
        manifest = parse(raw, ref.digest)
        if not isinstance(manifest, Manifest) or not is_model(manifest):
            raise MountError(f"{ref} is no model: expected the manifest of a ModelPack artifact")
        self._name(ref)
        return manifest

    def _name(self, ref: ModelRef) -> None:
        """So that `modelpack ls` can say what this is, for as long as it is in the cache."""
        try:
            self._documents.name(ref.digest, f"{ref.registry}/{ref.repository}")
        except DocumentError as error:
            log.warning("name not kept", model=str(ref), error=str(error))

    def _keep(self, ref: ModelRef, digest: Digest, raw: bytes) -> None:
        try:
            self._documents.put(digest, raw)
        except DocumentError as error:
            # A full disk: the model can be shown all the same, only not without its registry.
            log.warning("document not kept", model=str(ref), error=str(error))

    # Layers that are compressed

    def _claim(
        self, ref: ModelRef, manifest: Manifest, compressed: Sequence[Archive]
    ) -> dict[Digest, Unpacked]:
        if not compressed:
            return {}
        said = self._diff_ids(ref, manifest)
        unpacked: dict[Digest, Unpacked] = {}
        try:
            for archive in compressed:
                descriptor = archive.descriptor
                origin = self._registry.origin(ref.registry, ref.repository, descriptor)
                diff_id = said[archive.number] if len(said) == len(manifest.layers) else None
                unpacked[descriptor.digest] = self._unpacker.claim(archive, origin, diff_id)
        except BaseException:
            self._release(unpacked)
            raise
        return unpacked

    def _diff_ids(self, ref: ModelRef, manifest: Manifest) -> tuple[Digest | None, ...]:
        """What the config says the layers decompress to; many say nothing."""
        raw = self._documents.get(manifest.config.digest)
        if raw is None:
            reference = Reference(ref.registry, ref.repository, None, ref.digest)
            raw = self._registry.blob(reference, manifest.config, limit=MANIFEST_LIMIT)
            self._keep(ref, manifest.config.digest, raw)
        return diff_ids(raw)

    def _unpacked_indexes(self, unpacked: Mapping[Digest, Unpacked]) -> dict[Digest, TarIndex]:
        deadline = time.monotonic() + self._patience
        return {
            digest: one.index(max(0.0, deadline - time.monotonic()))
            for digest, one in unpacked.items()
        }

    def _let_go(self, unpacked: dict[Digest, Unpacked], described: Layout) -> None:
        """Of layers of which every file was left out, once their names were known."""
        needed = {blob.digest for blob in described.blobs}
        for digest in [digest for digest in unpacked if digest not in needed]:
            self._unpacker.release(unpacked.pop(digest))

    def _release(self, unpacked: Mapping[Digest, Unpacked], *, go_on: bool = False) -> None:
        for one in unpacked.values():
            self._unpacker.release(one, go_on=go_on)

    # Layers that are not

    def _indexes(
        self,
        ref: ModelRef,
        found: Sequence[Archive],
        chunks: Mapping[Digest, ChunkDigests],
    ) -> dict[Digest, TarIndex]:
        known = {
            archive.descriptor.digest: index
            for archive in found
            if (index := self._indexes_kept.get(archive.descriptor.digest)) is not None
        }
        unknown = [archive for archive in found if archive.descriptor.digest not in known]
        if not unknown:
            return known
        layers = [archive.descriptor for archive in unknown]
        blobs = self._open(layers)
        loaded = self._fetcher.add_model(self._origins(ref, layers, blobs), chunks)
        try:
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="modelpack-index") as threads:
                indexes = threads.map(
                    lambda archive: self._index(loaded, blobs[archive.descriptor.digest], archive),
                    unknown,
                )
                return known | {
                    archive.descriptor.digest: index
                    for archive, index in zip(unknown, indexes, strict=True)
                }
        finally:
            self._fetcher.remove_model(loaded)

    def _index(self, loaded: LoadedModel, blob: Blob, archive: Archive) -> TarIndex:
        steps = index_tar(blob.size, archive.where)
        try:
            want = next(steps)
            while True:
                want = steps.send(self._read(loaded, blob, want.offset, want.most))
        except StopIteration as done:
            index: TarIndex = done.value
        try:
            self._indexes_kept.put(blob.digest, index)
        except DocumentError as error:
            log.warning("index not kept", layer=archive.where, error=str(error))
        return index

    def _open(self, layers: Sequence[Descriptor]) -> dict[Digest, Blob]:
        return {layer.digest: self._store.open(layer.digest, layer.size) for layer in layers}

    def _origins(
        self, ref: ModelRef, layers: Sequence[Descriptor], blobs: Mapping[Digest, Blob]
    ) -> list[tuple[Blob, BlobOrigin]]:
        return [
            (blobs[layer.digest], self._registry.origin(ref.registry, ref.repository, layer))
            for layer in layers
        ]

    def _read(self, loaded: LoadedModel, blob: Blob, offset: int, size: int) -> bytes:
        """Wait for bytes: fine here, where a caller waits for the mount anyway."""
        answered = threading.Event()
        answer: list[bytes | Exception] = []

        def deliver(result: ReadResult) -> None:
            answer.append(result if isinstance(result, Exception) else b"".join(result))
            answered.set()

        # Of no stream: looking at headers is no reason to fetch what lies between them.
        self._fetcher.read(loaded, blob, offset, size, stream=None, deliver=deliver)
        answered.wait()
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]
