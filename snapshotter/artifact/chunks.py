"""Chunk lists: the digest of every chunk of every blob of one artifact. Pure.

With a list that is trusted a reader need not wait for a whole blob before it knows
that its bytes are right. A list is bound to one manifest by that manifest's digest
and is published as a referrer of it: an image manifest with :data:`CHUNK_LIST` as
``artifactType`` and ``subject`` (OCI image-spec ``manifest.md``) whose only layer is
the list::

    {"version": 1, "subject": "sha256:...", "algorithm": "sha256", "chunkSize": 4194304,
     "blobs": [{"digest": "sha256:...", "size": 9437184, "chunks": "<base64>"}]}

``chunks`` is the 32 bytes of each chunk's sha256 in order; the last chunk is shorter.
The same artifact and chunk size give the same bytes, so the same digest to pin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Manifest

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

CHUNK_LIST = "application/vnd.modelpack-snapshotter.chunks.v1+json"
"""Media type of a list, and artifact type of the referrer that holds it."""
CHUNK_SIZE = 4 << 20
"""Bytes of a chunk unless asked otherwise."""
LEAST_CHUNK, LARGEST_CHUNK = 64 << 10, 64 << 20
LIST_LIMIT = 64 << 20
"""Bytes of the largest list read."""
_VERSION = 1
_ALGORITHM = "sha256"
_LENGTH = 32


@dataclass(frozen=True, slots=True)
class ChunkDigests:
    """The chunks of one blob, all of ``chunk_size`` bytes but the last."""

    size: int
    chunk_size: int
    digests: bytes
    """32 bytes for each chunk, one after the other."""

    def __len__(self) -> int:
        return len(self.digests) // _LENGTH

    def span(self, number: int) -> tuple[int, int]:
        """Where chunk ``number`` (from 0) begins and ends."""
        start = number * self.chunk_size
        return start, min(start + self.chunk_size, self.size)

    def touched(self, start: int, end: int) -> range:
        """The numbers of the chunks that ``[start, end)`` has bytes of."""
        return range(start // self.chunk_size, -(-end // self.chunk_size) if end > start else 0)

    def right(self, number: int, data: ReadableBuffer) -> bool:
        """Whether ``data`` is the whole chunk ``number``."""
        expected = self.digests[number * _LENGTH : (number + 1) * _LENGTH]
        return hashlib.sha256(data).digest() == expected


class _Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    size: int
    chunks: bytes


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    version: int
    subject: str
    algorithm: str
    chunk_size: int
    blobs: list[_Blob]


@dataclass(frozen=True, slots=True)
class ChunkList:
    """The chunks of the blobs of one artifact."""

    digest: Digest
    """Of the list itself: what an operator pins."""
    subject: Digest
    """Of the artifact's manifest."""
    blobs: Mapping[Digest, ChunkDigests]


def chunk_count(size: int, chunk_size: int) -> int:
    return -(-size // chunk_size)


def check_chunk_size(size: int) -> int:
    """``size``; :class:`ArtifactError` unless it is a power of two from 64 KiB to 64 MiB."""
    if not LEAST_CHUNK <= size <= LARGEST_CHUNK or size & (size - 1):
        raise ArtifactError(f"chunk size {size}: expected a power of two from 64KiB to 64MiB")
    return size


def blobs_of(manifest: Manifest) -> dict[Digest, Descriptor]:
    """The blobs a list must cover: each layer of ``manifest``, once."""
    return {layer.digest: layer for layer in manifest.layers}


def encode_chunks(
    subject: Digest, chunk_size: int, blobs: Iterable[tuple[Digest, ChunkDigests]]
) -> bytes:
    """The list as it is published, ``blobs`` in their order."""
    return msgspec.json.encode(
        _Document(
            version=_VERSION,
            subject=subject,
            algorithm=_ALGORITHM,
            chunk_size=check_chunk_size(chunk_size),
            blobs=[_Blob(digest, chunks.size, chunks.digests) for digest, chunks in blobs],
        )
    )


def decode_chunks(raw: bytes, manifest: Manifest) -> ChunkList:
    """Read a list and hold it to ``manifest``: bound to it, and whole.

    Raises :class:`ArtifactError`, and nothing else, for anything that is not so. Says
    nothing of whether the list is trusted.
    """
    digest = digest_of(raw)
    if len(raw) > LIST_LIMIT:
        raise ArtifactError(
            f"chunk list {digest} has {len(raw)} bytes: at most {LIST_LIMIT} are read"
        )
    try:
        document = msgspec.json.decode(raw, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{digest} is no chunk list: {error}") from None
    if (document.version, document.algorithm) != (_VERSION, _ALGORITHM):
        raise ArtifactError(
            f"chunk list {digest} is of version {document.version} with "
            f"{document.algorithm[:40]!r}: expected {_VERSION} with {_ALGORITHM}"
        )
    if document.subject != manifest.digest:
        raise ArtifactError(
            f"chunk list {digest} is of {document.subject[:160]!r}, not of {manifest.digest}"
        )
    check_chunk_size(document.chunk_size)
    blobs = {}
    for blob in document.blobs:
        if len(blob.chunks) != _LENGTH * chunk_count(blob.size, document.chunk_size):
            raise ArtifactError(
                f"chunk list {digest} has {len(blob.chunks)} bytes of digests for the "
                f"{blob.size} bytes of {blob.digest[:160]}"
            )
        blobs[parse_digest(blob.digest)] = ChunkDigests(blob.size, document.chunk_size, blob.chunks)
    for wanted in blobs_of(manifest).values():
        if wanted.digest not in blobs or blobs[wanted.digest].size != wanted.size:
            raise ArtifactError(
                f"chunk list {digest} does not cover {wanted.digest} of {manifest.digest} "
                f"with {wanted.size} bytes: it must have every blob of its artifact"
            )
    return ChunkList(digest, manifest.digest, blobs)
