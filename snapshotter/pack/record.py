"""What a build leaves behind: manifest, config, and where the bytes of each blob are."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.cache.durable import replace
from snapshotter.home import user_directory
from snapshotter.opening import open_resolved
from snapshotter.pack.errors import BuildError, NoBuild, SourceChanged
from snapshotter.registry.reference import Reference

_FORMAT = 1
_PIECE = 1 << 20


class SourceBlob(msgspec.Struct, frozen=True, kw_only=True):
    """A blob: ``header``, then a file's bytes, then ``trailer`` zeros (both for tar only)."""

    digest: str
    size: int
    file: str
    file_size: int
    mtime_ns: int
    header: bytes = b""
    trailer: int = 0

    def check(self) -> None:
        """:class:`SourceChanged` when the file is not the one that was built from."""
        try:
            self._check(Path(self.file).stat())
        except OSError as error:
            raise _changed(self.file, f"cannot be read any more ({error.strerror})") from None

    def pieces(self) -> Iterator[bytes]:
        """The blob. The last piece is given out only when all of it had the right digest."""
        sha = hashlib.sha256()
        left = self.size
        for piece in self._pieces():
            sha.update(piece)
            left -= len(piece)
            if left <= 0 and f"sha256:{sha.hexdigest()}" != self.digest:
                raise _changed(self.file, "has other content than it had")
            yield piece
        if left > 0:
            raise _changed(self.file, f"is {left} bytes shorter than it was")

    def _pieces(self) -> Iterator[bytes]:
        if self.header:
            yield self.header
        try:
            with open_resolved(Path(self.file)) as file:
                self._check(os.fstat(file.fileno()))
                left = self.file_size
                while left > 0 and (piece := file.read(min(_PIECE, left))):
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise _changed(self.file, f"cannot be read any more ({error.strerror})") from None
        if self.trailer and not left:
            yield bytes(self.trailer)

    def _check(self, status: os.stat_result) -> None:
        if (status.st_size, status.st_mtime_ns) != (self.file_size, self.mtime_ns):
            raise _changed(self.file, "has changed")


class BuildRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact, ready to be pushed."""

    format: int = _FORMAT
    reference: str
    manifest: bytes
    config: bytes
    blobs: tuple[SourceBlob, ...]
    """One per digest, in the order of the layers."""

    @property
    def digest(self) -> Digest:
        """Of the manifest."""
        return digest_of(self.manifest)


class BuildStore:
    """The builds of one user: a small file per reference, no bytes of models."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or user_directory("XDG_DATA_HOME", ".local/share")

    def save(self, record: BuildRecord) -> None:
        """Whole or not at all; replaces an earlier build of the same reference."""
        path = self._path(record.reference)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            replace(path, msgspec.json.encode(record))
        except OSError as error:
            raise BuildError(f"{path} cannot be written: {error.strerror}") from None

    def load(self, reference: Reference) -> BuildRecord:
        """:class:`NoBuild` when there is none that can be used."""
        path = self._path(str(reference))
        try:
            record = msgspec.json.decode(path.read_bytes(), type=BuildRecord)
            usable = record.format == _FORMAT and record.reference == str(reference)
        except FileNotFoundError:
            raise NoBuild(
                f"{reference} has not been built here; run: modelpack build DIR -t {reference}"
            ) from None
        except OSError as error:
            raise NoBuild(f"{path} cannot be read: {error.strerror}") from None
        except (msgspec.DecodeError, UnicodeDecodeError):
            usable = False
        if not usable:
            raise NoBuild(f"{path} is no record of a build that we can use: build again")
        return record

    def _path(self, reference: str) -> Path:
        name = hashlib.sha256(reference.encode()).hexdigest()
        return self.root / "builds" / f"{name}.json"


def _changed(file: str, how: str) -> SourceChanged:
    return SourceChanged(f"{file} {how} since the model was built: build again")
