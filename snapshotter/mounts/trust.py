"""Which chunk list of a model is trusted: one made on this node, or one that is pinned.

What a registry lists is only where to look; a list counts because of its digest.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from snapshotter.artifact.chunks import CHUNK_LIST, LIST_LIMIT, ChunkDigests, decode_chunks
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.artifact.marker import ModelRef
from snapshotter.cache.chunk_lists import OwnLists
from snapshotter.cache.documents import DocumentError, Documents
from snapshotter.fetch.verify_options import VerifyOptions
from snapshotter.mounts.errors import MountError
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import list_referrers

_MOST = 64
"""Referrers of one model that are looked into for the list that is pinned."""

log = structlog.get_logger(__name__)


class Trust:
    """Finds the trusted list of a model."""

    def __init__(
        self, options: VerifyOptions, own: OwnLists, registry: Registry, documents: Documents
    ) -> None:
        self._pins = options.pins
        self._own = own
        self._registry = registry
        self._documents = documents

    def chunks(self, ref: ModelRef, manifest: Manifest) -> Mapping[Digest, ChunkDigests]:
        """The chunks of each blob of the model; empty where no list is trusted.

        Raises :class:`ModelpackError` when a list is pinned and cannot be had: such a model
        is not served with less.
        """
        pin = self._pins.get(manifest.digest)
        if pin is None:
            own = self._own.get(manifest)
            return own.blobs if own is not None else {}
        raw = self._documents.get(pin)
        if raw is None:
            raw = self._fetch(ref, pin)
            try:
                self._documents.put(pin, raw)
            except DocumentError as error:
                log.warning("chunk list not kept", model=str(ref), error=str(error))
        return decode_chunks(raw, manifest).blobs

    def known(self, manifest: Manifest) -> Mapping[Digest, ChunkDigests]:
        """As `chunks`, of what is on this node: empty also where a pinned list is not here."""
        pin = self._pins.get(manifest.digest)
        if pin is None:
            own = self._own.get(manifest)
            return own.blobs if own is not None else {}
        raw = self._documents.get(pin)
        return decode_chunks(raw, manifest).blobs if raw is not None else {}

    def _fetch(self, ref: ModelRef, pin: Digest) -> bytes:
        place = Reference(ref.registry, ref.repository, None, ref.digest)
        found = list_referrers(self._registry, place, artifact_types=(CHUNK_LIST,))
        for entry in found[:_MOST]:
            _, raw = self._registry.manifest(place.with_digest(entry.digest))
            document = parse(raw, entry.digest)
            if isinstance(document, Manifest):
                for layer in document.layers:
                    if layer.digest == pin:
                        return self._registry.blob(place, layer, limit=LIST_LIMIT)
        raise MountError(
            f"{ref} is not served: its chunk list {pin} is pinned, and the registry lists "
            f"{len(found)} chunk lists, none of them that one; publish it with "
            "'modelpack index', or take it out of verify.pinned_lists"
        )
