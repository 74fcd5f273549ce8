"""Chunk lists this node made itself, by the digest of the manifest each is bound to.

Whoever can write here is trusted: the directory is its owner's alone (mode 0700).
"""

from __future__ import annotations

from pathlib import Path

from snapshotter.artifact.chunks import ChunkList, decode_chunks
from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.artifact.manifest import Manifest
from snapshotter.cache.durable import replace
from snapshotter.cache.errors import CacheError


class OwnLists:
    """One directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, manifest: Manifest) -> ChunkList | None:
        """The list of ``manifest``; None where there is none.

        Raises :class:`CacheError` when it cannot be read, and :class:`ArtifactError` when
        it is damaged: neither may look as if there were none.
        """
        path = self._path(manifest.digest)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheError(f"cannot read the chunk list {path}: {error.strerror}") from None
        return decode_chunks(raw, manifest)

    def put(self, subject: Digest, raw: bytes) -> Path:
        """Keep a list that was made here. Raises :class:`CacheError`."""
        path = self._path(subject)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace(path, raw)
        except OSError as error:
            raise CacheError(f"cannot write the chunk list {path}: {error.strerror}") from None
        return path

    def _path(self, subject: Digest) -> Path:
        return self._root / algorithm(subject) / f"{encoded(subject)}.json"
