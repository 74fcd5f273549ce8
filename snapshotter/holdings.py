"""`modelpack ls`: the models on this node, as the daemon knows them or as they lie on the disk.

Each is a table that JSON can hold; sizes in bytes, each blob of a model counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fuse.mountinfo import fuse_mounts
from snapshotter.artifact.digest import Digest
from snapshotter.cache.documents import Documents
from snapshotter.cache.held import Held, Present, held, held_manifest, held_model, on_disk
from snapshotter.cache.store import BlobStore
from snapshotter.mounts.serving import FILESYSTEM


class Holdings:
    """The models of one cache."""

    def __init__(self, documents: Documents, present: Callable[[], Present], where: str) -> None:
        """``present`` says how things are when it is called; ``where`` is the cache's name."""
        self._documents = documents
        self._present = present
        self._where = where

    def all(self) -> list[dict[str, Any]]:
        """Every model that was ever mounted from this cache and is kept in it."""
        return [self._told(one) for one in held(self._documents, self._present())]

    def one(self, digest: Digest) -> dict[str, Any] | None:
        """The model with this manifest, with its ``blobs``; None where it is not here."""
        manifest = held_manifest(self._documents, digest)
        if manifest is None:
            return None
        found = held_model(self._documents, manifest, self._present())
        return self._told(found) | {
            "blobs": [
                {"digest": blob.digest, "size_bytes": blob.size, "present_bytes": present}
                for blob, present in found.blobs
            ]
        }

    def _told(self, model: Held) -> dict[str, Any]:
        return {
            "names": list(model.names),
            "digest": model.digest,
            "size_bytes": model.size,
            "present_bytes": model.present,
            "cache": self._where,
        }


def holdings_of(store: BlobStore, documents: Documents) -> Holdings:
    """Those of a store that is open here: also with what is not durable yet."""
    durable = on_disk(store.root / "blobs")

    def now() -> Present:
        using = {blob.digest: blob for blob in store.blobs()}
        return lambda digest: using[digest].present_bytes if digest in using else durable(digest)

    return Holdings(documents, now, str(store.root))


def holdings_on_disk(root: Path, documents: Path) -> Holdings:
    """Those of a store at ``root`` that another process may have open."""
    return Holdings(Documents(documents), lambda: on_disk(root / "blobs"), str(root))


def mounted(
    mounts: Callable[[], Iterator[tuple[str, Path]]] | None = None,
) -> dict[Digest, list[str]]:
    """Where which model is mounted in this mount namespace, by the digest of its manifest.

    The kernel is asked, so mounts of every user and without a daemon are among them.
    """
    found: dict[Digest, list[str]] = {}
    for source, point in (mounts or _mounts)():
        _, _, digest = source.rpartition("@")
        found.setdefault(Digest(digest), []).append(str(point))
    return found


def _mounts() -> Iterator[tuple[str, Path]]:
    for mount in fuse_mounts(FILESYSTEM):
        yield mount.source, mount.mount_point
