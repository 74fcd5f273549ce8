"""The bytes of one file of a model, as a stream that passes, and the tensors in it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, contextmanager

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import algorithm, encoded
from snapshotter.artifact.layout import File
from snapshotter.artifact.tar import Want
from snapshotter.copies.errors import CopyError, WrongBytes
from snapshotter.copies.inflating import inflated
from snapshotter.copies.reading import Blobs
from snapshotter.copies.survey import Survey
from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.formats import indexer_of
from snapshotter.tensors.index import TensorIndex, drive

_AROUND = 1 << 20
"""Bytes of a blob around a file that are fetched too, to verify it."""


@contextmanager
def content_of(
    file: File,
    found: Survey,
    blobs: Blobs,
    *,
    max_ratio: int,
    offset: int = 0,
    length: int | None = None,
) -> Iterator[Iterator[bytes]]:
    """Bytes of ``file`` from ``offset`` on, ``length`` of them or all; fewer at its end.

    Where the whole file is asked for and it is all of its layer but a little, or the layer
    is compressed, the bytes are checked against the digest, and the last of them given
    only when they are right: :class:`WrongBytes`. Others are as the registry gave them.
    """
    start = min(offset, file.size)
    end = file.size if length is None else min(start + length, file.size)
    whole = (start, end) == (0, file.size)
    if file.compressed:
        archive = found.archive_of(file)
        size = archive.descriptor.size
        with (
            closing(blobs.pieces(archive.descriptor, 0, size)) as pieces,
            closing(inflated(archive, pieces, max_ratio)) as inflating,
        ):
            # To its end, where it is verified, unless somebody wants a part only.
            yield _part(inflating, file.offset + start, file.offset + end, drain=whole)
        return
    blob = next(one for one in found.layout.blobs if one.digest == file.digest)
    if whole and blob.size - file.size <= _AROUND:
        with closing(blobs.pieces(blob, 0, blob.size)) as pieces:
            yield _part(_checked(blob, pieces), file.offset, file.offset + file.size, drain=True)
    else:
        with closing(blobs.pieces(blob, file.offset + start, file.offset + end)) as pieces:
            yield pieces


def tensors_of(file: File, found: Survey, blobs: Blobs, *, max_ratio: int) -> TensorIndex | None:
    """The tensors in ``file``, of which the header alone is read; None where none are known.

    Of a file in a compressed layer all that lies before it has to pass. Raises
    :class:`TensorsError` when it is not what its name says.
    """
    indexer = indexer_of(file.path)
    if indexer is None:
        return None
    steps: Generator[Want, bytes, TensorIndex] = indexer(file.size, repr(file.path))
    if not file.compressed:
        blob = next(one for one in found.layout.blobs if one.digest == file.digest)
        return drive(steps, lambda start, length: blobs.read(blob, file.offset + start, length))
    with content_of(
        file, found, blobs, max_ratio=max_ratio, length=max(0, file.size - 1)
    ) as content:
        passing = _Passing(content)
        return drive(steps, passing.read)


def _part(content: Iterable[bytes], start: int, end: int, *, drain: bool) -> Iterator[bytes]:
    """Bytes ``[start, end)`` of what passes, the last piece when all of it has, if ``drain``."""
    at, last = 0, b""
    for data in content:
        piece = data[max(0, start - at) : max(0, end - at)]
        at += len(data)
        if piece:
            if last:
                yield last
            last = piece
        if at >= end and not drain:
            break
    if at < end:
        raise CopyError(f"a layer ends at byte {at}, where {end} are needed")
    if last:
        yield last


def _checked(blob: Descriptor, pieces: Iterable[bytes]) -> Iterator[bytes]:
    hasher = hashlib.new(algorithm(blob.digest))
    for piece in pieces:
        hasher.update(piece)
        yield piece
    if hasher.hexdigest() != encoded(blob.digest):
        raise WrongBytes(
            f"{blob.digest}: the {blob.size} bytes that came hash to {hasher.hexdigest()}: the "
            "registry, or something on the way, gave wrong bytes"
        )


class _Passing:
    """Reads that go forward only, over pieces that pass."""

    def __init__(self, content: Iterator[bytes]) -> None:
        self._content = content
        self._kept = b""
        self._start = 0

    def read(self, start: int, length: int) -> bytes:
        if start < self._start:
            raise TensorsError(f"byte {start} is wanted, byte {self._start} has passed")
        while self._start + len(self._kept) < start + length:
            piece = next(self._content, b"")
            if not piece:
                break
            skipped = min(start - self._start, len(self._kept))
            self._kept = self._kept[skipped:] + piece
            self._start += skipped
        return self._kept[start - self._start :][:length]
