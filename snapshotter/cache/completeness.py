"""Whether a model needs its registry no more. Looks at what is on the disk; fetches nothing."""

from __future__ import annotations

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.cache.documents import Documents
from snapshotter.cache.errors import CacheError
from snapshotter.cache.store import BlobStore


def is_complete(digest: Digest, documents: Documents, store: BlobStore) -> bool:
    """Whether every byte of the model whose manifest has ``digest`` is on this node."""
    raw = documents.get(digest)
    if raw is None:
        return False
    try:
        manifest = parse(raw, digest)
        return isinstance(manifest, Manifest) and all(
            store.directory(layer.digest).is_dir()  # open() would make it
            and store.open(layer.digest, layer.size).complete
            for layer in manifest.layers
        )
    except (ArtifactError, CacheError):
        return False
