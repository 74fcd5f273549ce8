"""Making chunk lists: of a build from its files, of a model in a registry from its blobs.

Every blob is hashed whole beside its chunks, so a list is only ever made of bytes that
have the digest the manifest gives them.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapshotter.artifact.chunks import (
    CHUNK_LIST,
    CHUNK_SIZE,
    ChunkDigests,
    ChunkList,
    blobs_of,
    check_chunk_size,
    decode_chunks,
    encode_chunks,
)
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.buffers import page_aligned
from snapshotter.pack.errors import BuildError
from snapshotter.pack.progress import Progress, Silent
from snapshotter.pack.record import BuildRecord
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import RegistryError
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import publish

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_PARALLEL = 4
_PIECE = 1 << 20
_RANGE = 64 << 20
_ATTEMPTS = 5
_LONGEST_PAUSE = 30.0

Pieces = Callable[[], "Iterable[ReadableBuffer]"]


@dataclass(frozen=True, slots=True)
class Indexed:
    """A chunk list, and its bytes as they are published."""

    list: ChunkList
    raw: bytes

    @property
    def digest(self) -> Digest:
        return self.list.digest


def chunk_digests(
    digest: Digest, size: int, chunk_size: int, pieces: Iterable[ReadableBuffer]
) -> ChunkDigests:
    """Hash the chunks of a blob; :class:`BuildError` when it is not what ``digest`` says."""
    whole, chunk = hashlib.new(algorithm(digest)), hashlib.sha256()
    digests = bytearray()
    done = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        whole.update(view)
        while len(view):
            room = chunk_size - done % chunk_size
            chunk.update(view[:room])
            done += len(view[:room])
            view = view[room:]
            if done % chunk_size == 0:
                digests += chunk.digest()
                chunk = hashlib.sha256()
    if done % chunk_size:
        digests += chunk.digest()
    if (done, whole.hexdigest()) != (size, encoded(digest)):
        raise BuildError(
            f"{digest} has other content: {done} bytes of {algorithm(digest)}:{whole.hexdigest()} "
            f"came, expected {size}; no chunk list was made"
        )
    return ChunkDigests(size, chunk_size, bytes(digests))


def index_blobs(
    manifest: Manifest,
    pieces_of: Callable[[Descriptor, Progress], Iterable[ReadableBuffer]],
    *,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
) -> Indexed:
    """The list of ``manifest``, with the bytes of each blob from ``pieces_of``."""
    check_chunk_size(chunk_size)
    told = progress or Silent()
    blobs = list(blobs_of(manifest).values())
    told.total(sum(blob.size for blob in blobs))
    stop = threading.Event()

    def hashed(blob: Descriptor) -> tuple[Digest, ChunkDigests]:
        def pieces() -> Iterator[ReadableBuffer]:
            for piece in pieces_of(blob, told):
                if stop.is_set():
                    raise BuildError("stopped: another blob has failed")
                yield piece

        return blob.digest, chunk_digests(blob.digest, blob.size, chunk_size, pieces())

    with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="modelpack-index") as threads:
        try:
            futures = [threads.submit(hashed, blob) for blob in blobs]
            found = [future.result() for future in futures]
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)
    raw = encode_chunks(manifest.digest, chunk_size, found)
    return Indexed(decode_chunks(raw, manifest), raw)


def index_model(
    manifest: Manifest,
    registry: Registry,
    place: Reference,
    *,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
) -> Indexed:
    """Read every blob of a model from its registry, once; keeps none."""

    def pieces_of(blob: Descriptor, told: Progress) -> Iterator[ReadableBuffer]:
        return _stream(registry.origin(place.registry, place.repository, blob), told)

    return index_blobs(manifest, pieces_of, chunk_size=chunk_size, progress=progress)


def index_build(
    record: BuildRecord,
    registry: Registry,
    place: Reference,
    *,
    chunk_size: int = CHUNK_SIZE,
    progress: Progress | None = None,
) -> Indexed:
    """The list of a build that was pushed to ``place``, published there."""
    manifest = parse(record.manifest, record.digest)
    assert isinstance(manifest, Manifest)
    sources = {blob.digest: blob for blob in record.blobs}

    def pieces_of(blob: Descriptor, told: Progress) -> Iterator[ReadableBuffer]:
        for piece in sources[blob.digest].pieces():
            told.advance(len(piece))
            yield piece

    indexed = index_blobs(manifest, pieces_of, chunk_size=chunk_size, progress=progress)
    publish_list(indexed, manifest, registry, place)
    return indexed


def publish_list(
    indexed: Indexed, manifest: Manifest, registry: Registry, place: Reference
) -> Digest:
    """Push a list as a referrer of its model; the digest of the referrer's manifest."""
    subject = Descriptor(manifest.media_type, manifest.digest, len(manifest.raw))
    return publish(
        registry, subject, place, artifact_type=CHUNK_LIST, layers=[(CHUNK_LIST, indexed.raw)]
    )


def _stream(origin: BlobOrigin, told: Progress) -> Iterator[ReadableBuffer]:
    """A whole blob in order; temporary errors are tried again where they came."""
    buffer = page_aligned(_PIECE)
    position, failures = 0, 0
    while position < origin.size:
        try:
            with origin.open(position, min(position + _RANGE, origin.size)) as body:
                while count := body.readinto(buffer):
                    yield buffer[:count]
                    position += count
                    failures = 0
                    told.advance(count)
        except RegistryError as error:
            failures += 1
            if not error.temporary or failures == _ATTEMPTS:
                raise
            pause = error.retry_after if error.retry_after is not None else 0.5 * 2**failures
            time.sleep(min(pause, _LONGEST_PAUSE))
