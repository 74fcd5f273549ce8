"""Whether a model needs its registry no more. Looks at what is on the disk; fetches nothing."""

from __future__ import annotations

from snapshotter.artifact.digest import Digest
from snapshotter.cache.documents import Documents
from snapshotter.cache.errors import CacheError
from snapshotter.cache.store import BlobStore


def is_complete(digest: Digest, documents: Documents, store: BlobStore) -> bool:
    """Whether every byte of the model whose manifest has ``digest`` is on this node."""
    manifest = documents.manifest(digest)
    if manifest is None:
        return False
    try:
        return all(
            store.directory(layer.digest).is_dir()  # open() would make it
            and store.open(layer.digest, layer.size).complete
            for layer in manifest.layers
        )
    except CacheError:
        return False
