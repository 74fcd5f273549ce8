"""Which manifests containerd has images of: what nobody may throw away yet."""

from __future__ import annotations

import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Index, parse
from snapshotter.artifact.mediatypes import INDEX_TYPES, MODEL_INDEX_TYPES
from snapshotter.images.containerd import Containerd, Image

log = structlog.get_logger(__name__)


class KnownImages:
    """Remembers what indexes list, which never changes. Not thread-safe."""

    def __init__(self, containerd: Containerd) -> None:
        self._containerd = containerd
        self._listed: dict[Digest, frozenset[Digest]] = {}

    def manifests(self) -> set[Digest]:
        """What images point at, in all namespaces, also by way of an index.

        Raises :class:`ContainerdError` when it cannot be known.
        """
        found: set[Digest] = set()
        indexes: dict[Digest, frozenset[Digest]] = {}
        for namespace in self._containerd.namespaces():
            for image in self._containerd.images(namespace):
                target = image.target
                found.add(target.digest)
                if target.media_type in INDEX_TYPES or target.media_type in MODEL_INDEX_TYPES:
                    indexes[target.digest] = self._manifests_of(namespace, image)
        self._listed = {digest: listed for digest, listed in indexes.items() if listed}
        return found.union(*indexes.values())

    def _manifests_of(self, namespace: str, image: Image) -> frozenset[Digest]:
        digest = image.target.digest
        if digest in self._listed:
            return self._listed[digest]
        raw = self._containerd.read(namespace, digest)
        try:
            document = parse(raw, digest) if raw is not None else None
        except ArtifactError as error:
            log.debug("index of an image not understood", image=image.name, why=str(error))
            return frozenset()
        if not isinstance(document, Index):
            return frozenset()
        return frozenset(listed.digest for listed in document.manifests)
