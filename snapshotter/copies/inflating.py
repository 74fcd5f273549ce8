"""A compressed layer as a stream that passes: nothing of it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable

from snapshotter.artifact.digest import algorithm, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import Archive
from snapshotter.artifact.names import basename
from snapshotter.artifact.tar import TarEntry, TarIndex, Want, index_tar
from snapshotter.copies.errors import WrongBytes
from snapshotter.unpack.inflate import Dry, Feed, inflater
from snapshotter.unpack.stream import FREE, PIECE


def inflated(
    archive: Archive, compressed: Iterable[bytes], max_ratio: int
) -> Generator[bytes, None, None]:
    """What all of the blob ``archive`` decompresses to, in order.

    At its end the blob was hashed: :class:`WrongBytes` when it is another. Raises
    :class:`ArtifactError` when it is malformed, or expands more than ``max_ratio`` times.
    """
    digest, size = archive.descriptor.digest, archive.descriptor.size
    feed, hasher = Feed(), hashlib.new(algorithm(digest))
    stream = inflater(archive.encoding, feed, archive.where)
    source, taken, given, ended = iter(compressed), 0, 0, False
    while True:
        try:
            data = stream.read(PIECE)
            if not data and ended:
                return
        except Dry:
            data = b""
        if data:
            given += len(data)
            if given > FREE + max_ratio * taken:
                raise ArtifactError(
                    f"{archive.where}: {taken} compressed bytes become more than {given}: over "
                    f"{max_ratio} times as much is refused (max_ratio in [unpack])"
                )
            yield data
            continue
        piece = next(source, b"")
        taken += len(piece)
        hasher.update(piece)
        if piece:
            feed.put(piece)
            continue
        if taken != size or hasher.hexdigest() != encoded(digest):
            raise WrongBytes(
                f"{archive.where}: the {taken} bytes that came hash to {hasher.hexdigest()}: the "
                "registry, or something on the way, gave wrong bytes"
            )
        ended = True
        feed.end()


def index_passing(archive: Archive, content: Iterable[bytes]) -> TarIndex:
    """The index of a tar that passes. All of ``content`` is taken, unless the producer says
    that there is one file, and its header came. Raises :class:`ArtifactError`."""
    entries: list[TarEntry] = []
    scan = _Scan(index_tar(None, archive.where, entries))
    for data in content:
        scan.take(data)
        others = [entry for entry in entries if not entry.is_directory]
        if archive.single is not None and len(others) == 1:
            only = others[0]
            if only.is_regular and (basename(only.path), only.size) == archive.single:
                return TarIndex(tuple(entries))
    index = scan.finish()
    if index.end > scan.end:
        raise ArtifactError(
            f"{archive.where}: the archive is truncated: byte {index.end} is needed, it "
            f"decompresses to {scan.end}"
        )
    return index


class _Scan:
    """Looks at headers while they pass; keeps no more than the one it waits for."""

    def __init__(self, steps: Generator[Want, bytes, TarIndex]) -> None:
        self.end = 0
        """Bytes that have passed."""
        self._steps = steps
        self._want = next(steps)
        self._kept = bytearray()
        self._index: TarIndex | None = None

    def take(self, data: bytes) -> None:
        self.end += len(data)
        self._kept += data
        while self._index is None and self._want.offset + self._want.length <= self.end:
            self._send()
        self._forget()

    def finish(self) -> TarIndex:
        """There is no more: what is wanted beyond the end is not there."""
        while self._index is None:
            self._send()
        return self._index

    def _send(self) -> None:
        at = self._want.offset - (self.end - len(self._kept))
        try:
            self._want = self._steps.send(bytes(self._kept[at : at + self._want.length]))
        except StopIteration as done:
            self._index = done.value

    def _forget(self) -> None:
        if self._index is not None:
            self._kept.clear()
        else:
            first = self.end - len(self._kept)
            del self._kept[: max(0, self._want.offset - first)]
