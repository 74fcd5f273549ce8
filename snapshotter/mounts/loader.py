"""From a reference to the list of a model's files, with everything needed to read them.

Manifest first, then the headers of tar layers, then the layout. Manifests are kept
as documents and the headers' bytes in the blob cache, so a mount that worked once
works again while the registry is down.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.layout import Layout, layer_name, layout, tar_layers
from snapshotter.artifact.manifest import Manifest, is_model, parse
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.tar import TarIndex, index_tar
from snapshotter.cache.blob import Blob
from snapshotter.cache.documents import DocumentError, Documents
from snapshotter.cache.store import BlobStore
from snapshotter.fetch.fetcher import Fetcher, LoadedModel, ReadResult
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.trust import Trust
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """A model whose tree is known and whose bytes can be asked for."""

    ref: ModelRef
    manifest: Manifest
    layout: Layout
    blobs: Mapping[Digest, Blob]
    loaded: LoadedModel


class Loader:
    """Brings the four things together that a model needs: registry, documents, cache, fetcher."""

    def __init__(
        self,
        registry: Registry,
        documents: Documents,
        store: BlobStore,
        fetcher: Fetcher,
        trust: Trust | None = None,
    ) -> None:
        self._registry = registry
        self._documents = documents
        self._store = store
        self._fetcher = fetcher
        self._trust = trust

    def load(self, ref: ModelRef) -> Model:
        """Raises :class:`ModelpackError`; nothing stays behind then but what was cached."""
        manifest = self._manifest(ref)
        chunks = self._trust.chunks(ref, manifest) if self._trust is not None else {}
        described = layout(manifest, self._indexes(ref, manifest, chunks))
        for warning in described.warnings:
            log.warning("model is unusual", model=str(ref), warning=warning)
        blobs = self._open(described.blobs)
        loaded = self._fetcher.add_model(self._origins(ref, described.blobs, blobs), chunks)
        return Model(ref, manifest, described, blobs, loaded)

    def also_at(self, model: Model, ref: ModelRef) -> None:
        """``model`` was asked for by ``ref``, another place of the same manifest."""
        digests = [layer.digest for layer in model.manifest.layers]
        self._registry.also_at(ref.registry, ref.repository, digests)

    def unload(self, model: Model) -> None:
        self._fetcher.remove_model(model.loaded)

    def _manifest(self, ref: ModelRef) -> Manifest:
        raw = self._documents.get(ref.digest)
        if raw is None:
            reference = Reference(ref.registry, ref.repository, None, ref.digest)
            _, raw = self._registry.manifest(reference, blobs_follow=True)
            try:
                self._documents.put(ref.digest, raw)
            except DocumentError as error:
                # A full disk: the model can be shown all the same, only not without its registry.
                log.warning("manifest not kept", model=str(ref), error=str(error))
        manifest = parse(raw, ref.digest)
        if not isinstance(manifest, Manifest) or not is_model(manifest):
            raise MountError(f"{ref} is no model: expected the manifest of a ModelPack artifact")
        return manifest

    def _indexes(
        self, ref: ModelRef, manifest: Manifest, chunks: Mapping[Digest, ChunkDigests]
    ) -> Mapping[Digest, TarIndex]:
        layers = tar_layers(manifest)
        blobs = self._open(layers)
        loaded = self._fetcher.add_model(self._origins(ref, layers, blobs), chunks)
        try:
            return {
                layer.digest: self._index(loaded, blobs[layer.digest], layer_name(manifest, layer))
                for layer in layers
            }
        finally:
            self._fetcher.remove_model(loaded)

    def _open(self, layers: Sequence[Descriptor]) -> dict[Digest, Blob]:
        return {layer.digest: self._store.open(layer.digest, layer.size) for layer in layers}

    def _origins(
        self, ref: ModelRef, layers: Sequence[Descriptor], blobs: Mapping[Digest, Blob]
    ) -> list[tuple[Blob, BlobOrigin]]:
        return [
            (blobs[layer.digest], self._registry.origin(ref.registry, ref.repository, layer))
            for layer in layers
        ]

    def _index(self, loaded: LoadedModel, blob: Blob, where: str) -> TarIndex:
        steps = index_tar(blob.size, where)
        try:
            want = next(steps)
            while True:
                want = steps.send(self._read(loaded, blob, want.offset, want.length))
        except StopIteration as done:
            index: TarIndex = done.value
            return index

    def _read(self, loaded: LoadedModel, blob: Blob, offset: int, size: int) -> bytes:
        """Wait for bytes: fine here, where a caller waits for the mount anyway."""
        answered = threading.Event()
        answer: list[bytes | Exception] = []

        def deliver(result: ReadResult) -> None:
            answer.append(result if isinstance(result, Exception) else b"".join(result))
            answered.set()

        self._fetcher.read(
            loaded, blob, offset, size, stream=("index", blob.digest), deliver=deliver
        )
        answered.wait()
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]
