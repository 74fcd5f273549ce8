"""Small files kept by digest: manifests.

What is needed to show a model's tree without asking anyone, so that a mount
works again after a restart while the registry is down.
"""

from __future__ import annotations

from pathlib import Path

from snapshotter.artifact.digest import Digest, algorithm, digest_of, encoded, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.cache.durable import replace
from snapshotter.errors import ModelpackError

_NAMES = 16
"""Names kept of one document."""


def parse_name(algorithm: str, encoded: str) -> Digest:
    """The digest that ``<algorithm>/<encoded>`` is the path of; else :class:`ArtifactError`."""
    return parse_digest(f"{algorithm}:{encoded}")


class DocumentError(ModelpackError):
    """A document could not be written."""


class Documents:
    """One directory of files named by their digest, each written whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, digest: Digest) -> bytes | None:
        """The document; None where there is none that has this digest."""
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            return None
        return data if digest_of(data, like=digest) == digest else None

    def put(self, digest: Digest, data: bytes) -> None:
        path = self._path(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace(path, data)
        except OSError as error:
            raise DocumentError(f"cannot write {path}: {error.strerror}") from None

    def names(self, digest: Digest) -> tuple[str, ...]:
        """What `name` was told of this document, the latest last."""
        try:
            text = self._names(digest).read_text(errors="replace")
        except OSError:
            return ()
        return tuple(line for line in text.splitlines() if line)

    def name(self, digest: Digest, name: str) -> None:
        """Remember that the document is known to people as ``name``; of several the last few."""
        known = self.names(digest)
        if name in known or "\n" in name:
            return
        kept = [*known, name][-_NAMES:]
        try:
            replace(self._names(digest), "".join(f"{one}\n" for one in kept).encode())
        except OSError as error:
            raise DocumentError(f"cannot write {self._names(digest)}: {error.strerror}") from None

    def digests(self) -> list[Digest]:
        """Of all documents there are."""
        found = []
        for path in self._root.glob("*/*"):
            try:
                found.append(parse_name(path.parent.name, path.name))
            except ArtifactError:
                continue  # one that is being written, or names
        return found

    def _names(self, digest: Digest) -> Path:
        path = self._path(digest)
        return path.with_name(f"{path.name}.names")

    def _path(self, digest: Digest) -> Path:
        return self._root / algorithm(digest) / encoded(digest)
