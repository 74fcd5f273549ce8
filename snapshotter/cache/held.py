"""Which models a cache holds, and how much of each: looks at the disk, and locks nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Manifest, is_model, parse
from snapshotter.cache import presence
from snapshotter.cache.documents import Documents

Present = Callable[[Digest], int]
"""Bytes of a blob that are there."""


@dataclass(frozen=True, slots=True)
class Held:
    """A model whose manifest is kept."""

    digest: Digest
    """Of its manifest."""
    names: tuple[str, ...]
    """Where it was got from: ``registry/repository``, the latest last."""
    blobs: tuple[tuple[Descriptor, int], ...]
    """Each once, and how many bytes of it are there."""

    @property
    def size(self) -> int:
        return sum(blob.size for blob, _ in self.blobs)

    @property
    def present(self) -> int:
        return sum(present for _, present in self.blobs)


def held(documents: Documents, present: Present) -> Iterator[Held]:
    """Every model of which a manifest is kept."""
    for digest in sorted(documents.digests()):
        if (manifest := held_manifest(documents, digest)) is not None:
            yield held_model(documents, manifest, present)


def held_model(documents: Documents, manifest: Manifest, present: Present) -> Held:
    blobs = {layer.digest: layer for layer in manifest.layers}
    return Held(
        manifest.digest,
        documents.names(manifest.digest),
        tuple((blob, min(present(blob.digest), blob.size)) for blob in blobs.values()),
    )


def held_manifest(documents: Documents, digest: Digest) -> Manifest | None:
    """The model's manifest with this digest; None where it is not here, or no model's."""
    raw = documents.get(digest)
    try:
        document = parse(raw, digest) if raw is not None else None
    except ArtifactError:
        return None  # another kind of document: a config, a chunk list
    return document if isinstance(document, Manifest) and is_model(document) else None


def map_of(blobs: Path, digest: Digest) -> presence.Presence | None:
    """The map of a blob below ``blobs``, as it was last made durable."""
    try:
        raw = (blobs / algorithm(digest) / encoded(digest) / "map").read_bytes()
    except OSError:
        return None
    return presence.decode(raw, digest)


def on_disk(blobs: Path) -> Present:
    """How much of each blob is durable below ``blobs``, the directory of a store's blobs."""

    def present(digest: Digest) -> int:
        known = map_of(blobs, digest)
        return sum(end - start for start, end in known.ranges) if known is not None else 0

    return present
