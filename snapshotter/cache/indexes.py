"""Where the files of tar layers lie, kept by the blob's digest.

So a model that was mounted once is shown again without asking for a byte. A file is a
line with the sha256 of the rest, then JSON; one that is torn, of another blob or of
another version is worth nothing, and the headers are read again.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.artifact.tar import TarEntry, TarIndex
from snapshotter.cache.documents import DocumentError
from snapshotter.cache.durable import replace

VERSION = 1
"""Of what is kept, and of how archives are read: count up when either changes."""


class _Entry(msgspec.Struct, array_like=True):
    path: str
    offset: int
    size: int
    mode: int
    mtime_ns: int
    is_directory: bool
    symlink: str
    hardlink: str


class _Kept(msgspec.Struct, kw_only=True):
    digest: str
    entries: list[_Entry]
    version: int = VERSION


class TarIndexes:
    """One directory of indexes. Thread-safe."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, digest: Digest) -> TarIndex | None:
        """The index of this blob; None where there is none that is sound."""
        try:
            return decode(self._path(digest).read_bytes(), digest)
        except OSError:
            return None

    def put(self, digest: Digest, index: TarIndex) -> None:
        """Raises :class:`DocumentError` when it cannot be written."""
        path = self._path(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace(path, encode(digest, index))
        except OSError as error:
            raise DocumentError(f"cannot write {path}: {error.strerror}") from None

    def remove(self, digest: Digest) -> None:
        """Forget what turned out to be wrong."""
        self._path(digest).unlink(missing_ok=True)

    def _path(self, digest: Digest) -> Path:
        return self._root / algorithm(digest) / encoded(digest)


def encode(digest: Digest, index: TarIndex) -> bytes:
    entries = [
        _Entry(
            entry.path,
            entry.offset,
            entry.size,
            entry.mode,
            entry.mtime_ns,
            entry.is_directory,
            entry.symlink,
            entry.hardlink,
        )
        for entry in index.entries
    ]
    body = msgspec.json.encode(_Kept(digest=digest, entries=entries))
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def decode(raw: bytes, digest: Digest) -> TarIndex | None:
    checksum, _, body = raw.partition(b"\n")
    if checksum != hashlib.sha256(body).hexdigest().encode():
        return None
    try:
        kept = msgspec.json.decode(body, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if (kept.version, kept.digest) != (VERSION, digest):
        return None
    return TarIndex(
        tuple(
            TarEntry(
                entry.path,
                entry.offset,
                entry.size,
                entry.mode,
                entry.mtime_ns,
                entry.is_directory,
                entry.symlink,
                entry.hardlink,
            )
            for entry in kept.entries
        )
    )
