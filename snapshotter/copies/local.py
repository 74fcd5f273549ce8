"""Models that are on this machine already: in an OCI image layout, or in a cache.

Stands in for a registry where one is not to be asked, and before one where it would be asked
for what is here. Nothing here is believed: who reads it verifies it as if it had been fetched.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, algorithm, digest_of, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import MANIFEST_LIMIT, Index, parse
from snapshotter.artifact.mediatypes import OCI_INDEX
from snapshotter.cache.documents import Documents
from snapshotter.cache.held import map_of
from snapshotter.copies.errors import CopyError, NotHere, WrongBytes
from snapshotter.registry.blobs import BlobOrigin, RangeBody
from snapshotter.registry.errors import BadAnswer, NotFound
from snapshotter.registry.reference import Reference

_REF_NAME = "org.opencontainers.image.ref.name"


class Source(Protocol):
    """What a model is copied from."""

    def manifest(
        self, ref: Reference, *, blobs_follow: bool = False
    ) -> tuple[Descriptor, bytes]: ...
    def blob(self, ref: Reference, descriptor: Descriptor, *, limit: int) -> bytes: ...
    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin: ...
    def also_at(self, registry: str, repository: str, digests: Iterable[Digest]) -> None: ...


class FileOrigin(BlobOrigin):
    """A blob that is a file."""

    def __init__(self, path: Path, descriptor: Descriptor) -> None:
        self._path = path
        self._descriptor = descriptor

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def size(self) -> int:
        return self._descriptor.size

    def open(self, start: int, end: int) -> RangeBody:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NotHere(
                f"blob {self._descriptor.digest} is not here: {self._path}: {error.strerror}"
            ) from None
        return _FileBody(fd, start, end, self._path)

    def distrust(self) -> None:
        pass  # there is no other


class _FileBody(RangeBody):
    def __init__(self, fd: int, start: int, end: int, path: Path) -> None:
        self._fd, self._at, self._end, self._path = fd, start, end, path
        self._file = os.fdopen(fd, "rb", buffering=0)

    def readinto(self, buffer: memoryview) -> int:
        wanted, done = min(len(buffer), self._end - self._at), 0
        while done < wanted:
            try:
                count = os.preadv(self._fd, [buffer[done:wanted]], self._at)
            except OSError as error:
                raise BadAnswer(f"cannot read {self._path}: {error.strerror}") from None
            if count == 0:
                raise BadAnswer(f"{self._path} ends at byte {self._at}, before {self._end}")
            done += count
            self._at += count
        return done

    def close(self) -> None:
        self._file.close()


class _Absent(BlobOrigin):
    """A blob that is not here; to say so when somebody needs it."""

    def __init__(self, descriptor: Descriptor, where: str) -> None:
        self._descriptor = descriptor
        self._where = where

    @property
    def name(self) -> str:
        return f"{self._where}@{self._descriptor.digest}"

    @property
    def size(self) -> int:
        return self._descriptor.size

    def open(self, start: int, end: int) -> RangeBody:
        raise NotHere(
            f"blob {self._descriptor.digest} is not whole in {self._where}: bytes {start} to "
            f"{end} are needed; 'modelpack fetch' gets them"
        )

    def distrust(self) -> None:
        pass


class _Local(ABC):
    """What both have in common."""

    def blob(self, ref: Reference, descriptor: Descriptor, *, limit: int) -> bytes:
        origin = self.origin(ref.registry, ref.repository, descriptor)
        if descriptor.size > limit:
            raise BadAnswer(f"{origin.name} has {descriptor.size} bytes, at most {limit} are read")
        content = bytearray(descriptor.size)
        with origin.open(0, descriptor.size) as body:
            body.readinto(memoryview(content))
        if digest_of(content, like=descriptor.digest) != descriptor.digest:
            raise WrongBytes(f"{origin.name} is damaged: it has other content than its digest says")
        return bytes(content)

    @abstractmethod
    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin:
        """Where a blob is, or what says that it is not here."""

    def also_at(self, registry: str, repository: str, digests: Iterable[Digest]) -> None:
        del registry, repository, digests  # there is one place


class LayoutDirectory(_Local):
    """An OCI image layout, image-spec ``image-layout.md``: what ``oras copy --to-oci-layout``
    and ``skopeo copy ... oci:`` write."""

    def __init__(self, directory: Path) -> None:
        """Raises :class:`CopyError` when it is none."""
        self.directory = directory
        try:
            self._raw = (directory / "index.json").read_bytes()
            self._index = parse(self._raw)
        except (OSError, ArtifactError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise CopyError(f"{directory} is no OCI image layout: index.json: {why}") from None
        if not isinstance(self._index, Index):
            raise CopyError(f"{directory} is no OCI image layout: index.json is no index")

    @staticmethod
    def is_one(directory: Path) -> bool:
        return (directory / "oci-layout").is_file()

    def reference(self, tag: str | None, digest: Digest | None) -> Reference:
        """To ask for by ``tag`` or ``digest``, or for the only model there is."""
        return Reference("oci", str(self.directory).strip("/") or ".", tag, digest)

    def manifest(self, ref: Reference, *, blobs_follow: bool = False) -> tuple[Descriptor, bytes]:
        del blobs_follow
        entry = self._entry(ref)
        if entry is None:  # one model for several platforms, listed here
            return Descriptor(OCI_INDEX, digest_of(self._raw), len(self._raw)), self._raw
        if entry.size > MANIFEST_LIMIT:
            raise BadAnswer(f"manifest {entry.digest} has {entry.size} bytes")
        return entry, self.blob(ref, entry, limit=MANIFEST_LIMIT)

    def _entry(self, ref: Reference) -> Descriptor | None:
        assert isinstance(self._index, Index)
        entries = self._index.manifests
        if ref.digest is not None:
            listed = next((one for one in entries if one.digest == ref.digest), None)
            return listed or self._found(ref.digest)
        if ref.tag is not None:
            tagged = [one for one in entries if one.annotations.get(_REF_NAME) == ref.tag]
            if not tagged:
                raise NotFound(f"{self.directory} has no tag {ref.tag!r}{self._tags()}")
            return tagged[0]
        if len({one.digest for one in entries}) == 1:
            return entries[0]
        platforms = [one.platform for one in entries if one.platform is not None]
        if entries and len(platforms) == len(entries):
            return None
        raise NotFound(f"{self.directory} has {len(entries)} manifests: name one{self._tags()}")

    def _found(self, digest: Digest) -> Descriptor:
        try:
            return Descriptor("", digest, self._path(digest).stat().st_size)
        except OSError:
            raise NotFound(f"{self.directory} has no manifest {digest}") from None

    def _tags(self) -> str:
        assert isinstance(self._index, Index)
        tags = [one.annotations.get(_REF_NAME) for one in self._index.manifests]
        named = [tag for tag in tags if tag]
        return f": it has {', '.join(named[:10])}" if named else "; give its digest"

    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin:
        del registry, repository
        return FileOrigin(self._path(descriptor.digest), descriptor)

    def _path(self, digest: Digest) -> Path:
        return self.directory / "blobs" / algorithm(digest) / encoded(digest)


@dataclass(frozen=True, slots=True)
class Cache:
    """Where a cache keeps its manifests and its blobs."""

    documents: Path
    blobs: Path


class Caches(_Local):
    """What is whole in the caches of this node; also while others have them open."""

    def __init__(self, caches: Sequence[Cache]) -> None:
        self._caches = caches

    def digests(self, name: str) -> list[Digest]:
        """Manifests that were got from ``registry/repository``."""
        found: dict[Digest, None] = {}
        for cache in self._caches:
            documents = Documents(cache.documents)
            for digest in documents.digests():
                if name in documents.names(digest):
                    found[digest] = None
        return list(found)

    def manifest(self, ref: Reference, *, blobs_follow: bool = False) -> tuple[Descriptor, bytes]:
        del blobs_follow
        assert ref.digest is not None
        for cache in self._caches:
            raw = Documents(cache.documents).get(ref.digest)
            if raw is not None:
                return Descriptor("", ref.digest, len(raw)), raw
        raise NotHere(
            f"{ref} is not on this node: 'modelpack ls' shows what is; 'modelpack fetch' gets it"
        )

    def blob(self, ref: Reference, descriptor: Descriptor, *, limit: int) -> bytes:
        for cache in self._caches:  # configs are documents
            raw = Documents(cache.documents).get(descriptor.digest)
            if raw is not None and len(raw) <= limit:
                return raw
        return super().blob(ref, descriptor, limit=limit)

    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin:
        found = self.whole(descriptor)
        return found or _Absent(descriptor, f"the cache of {registry}/{repository}")

    def whole(self, descriptor: Descriptor) -> BlobOrigin | None:
        """Where it can be read without asking anybody; None unless all of it was verified."""
        for cache in self._caches:
            known = map_of(cache.blobs, descriptor.digest)
            if known is not None and known.verified and known.size == descriptor.size:
                digest = descriptor.digest
                path = cache.blobs / algorithm(digest) / encoded(digest) / "data"
                return FileOrigin(path, descriptor)
        return None


class Nearest:
    """A registry, asked only for what no cache of this node has."""

    def __init__(self, registry: Source, caches: Caches) -> None:
        self._registry = registry
        self._caches = caches
        self.manifest = registry.manifest
        self.blob = registry.blob
        self.also_at = registry.also_at

    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin:
        return self._caches.whole(descriptor) or self._registry.origin(
            registry, repository, descriptor
        )
