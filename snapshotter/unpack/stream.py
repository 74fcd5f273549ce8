"""The way of one compressed layer into its content: inflated, checked, indexed, written.

Driven one step at a time by one thread after another (see :mod:`.unpacker`); asks for
compressed bytes and says how far it has come. Knows nothing of who waits for what.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import Archive
from snapshotter.artifact.tar import TarEntry, TarIndex, Want, index_tar
from snapshotter.unpack.content import Content
from snapshotter.unpack.errors import WrongLayer
from snapshotter.unpack.inflate import Dry, Feed, Inflater, inflater

PIECE = 1 << 20
"""Bytes taken in and given out in one step, at most."""
FREE = 256 << 20
"""Bytes that may come out before their ratio to those that went in matters."""


class Stream:
    """Not thread-safe. ``diff_id`` is what the content has to hash to, if anybody says."""

    def __init__(
        self, archive: Archive, content: Content, diff_id: Digest | None, max_ratio: int
    ) -> None:
        self.archive = archive
        self.entries: list[TarEntry] = []
        """Those whose headers have passed; grows."""
        self.index: TarIndex | None = None
        """Set once the last header has passed."""
        self.taken = 0
        """Compressed bytes taken in."""
        self.ended = False
        """All of the blob was taken in, and it is what its digest says."""
        self._content = content
        self._diff_id = diff_id
        self._max_ratio = max_ratio
        self._feed = Feed()
        self._inflater: Inflater | None = None  # which takes memory, so not before it is needed
        self._digest = hashlib.new(algorithm(archive.descriptor.digest))
        self._diff = hashlib.new(algorithm(diff_id) if diff_id is not None else "sha256")
        self._unwritten = b""
        self._scan: Generator[Want, bytes, TarIndex] = index_tar(None, archive.where, self.entries)
        self._want = next(self._scan)

    @property
    def wanted(self) -> int:
        """How many compressed bytes :meth:`feed` wants next; 0 when there are no more."""
        return min(PIECE, self.archive.descriptor.size - self.taken)

    def feed(self, data: bytes) -> None:
        """The next ``wanted`` bytes of the blob. :class:`WrongLayer` when they were wrong."""
        self.taken += len(data)
        self._digest.update(data)
        if data:
            self._feed.put(data)
        if self.taken == self.archive.descriptor.size:
            expected = self.archive.descriptor.digest
            if self._digest.hexdigest() != encoded(expected):
                raise WrongLayer(
                    f"{self.archive.where}: the {self.taken} bytes fetched hash to "
                    f"{self._digest.hexdigest()}: the registry, or something on the way, gave "
                    "wrong bytes; none is served any more"
                )
            self.ended = True
            self._feed.end()

    def step(self) -> bool:
        """Bring out one piece more; False at the end, when all of it is durable and right.

        Raises :class:`.inflate.Dry` when it must be fed first, :class:`CacheError` when the
        disk did not take it, which may be tried again, and :class:`ArtifactError` or
        :class:`UnpackError` when this layer can never be served.
        """
        if not self._unwritten:
            if self._inflater is None:
                self._inflater = inflater(self.archive.encoding, self._feed, self.archive.where)
            self._unwritten = self._inflater.read(PIECE)
            if not self._unwritten:
                if not self.ended:
                    raise Dry  # the empty blob has no byte to feed, but an end
                self._finish()
                return False
            self._check_ratio(self._content.size + len(self._unwritten))
        data, start = self._unwritten, self._content.size
        self._content.append(data)
        self._unwritten = b""
        self._diff.update(data)
        self._index(data, start)
        return True

    def skip(self, data: bytes) -> None:
        """Take in bytes for their digest only: nothing comes out of this stream any more."""
        self.taken += len(data)
        self._digest.update(data)

    def _check_ratio(self, size: int) -> None:
        if size > FREE + self._max_ratio * self.taken:
            raise ArtifactError(
                f"{self.archive.where}: {self.taken} compressed bytes become more than {size}: "
                f"over {self._max_ratio} times as much is refused; set max_ratio in [unpack] "
                "to more where it is meant to be so"
            )

    def _index(self, data: bytes, start: int) -> None:
        """Look at the headers that lie in ``data``, which begins at ``start`` of the content."""
        end = start + len(data)
        while self.index is None and self._want.offset + self._want.length <= end:
            first = self._want.offset - start
            if first >= 0:
                piece = data[first : first + self._want.length]
            else:
                piece = self._content.read(self._want.offset, self._want.length)
            self._send(piece)

    def _send(self, piece: bytes) -> None:
        try:
            self._want = self._scan.send(piece)
        except StopIteration as done:
            self.index = done.value

    def _finish(self) -> None:
        size, where = self._content.size, self.archive.where
        while self.index is None:
            rest = max(0, min(size - self._want.offset, self._want.length))
            self._send(self._content.read(self._want.offset, rest) if rest else b"")
        if self.index.end > size:
            raise ArtifactError(
                f"{where}: the archive is truncated: byte {self.index.end} is needed, it "
                f"decompresses to {size}"
            )
        # Producers that compress, but take their digest for the diffID, say nothing by it.
        said = self._diff_id
        if said is not None and said != self.archive.descriptor.digest:
            found = Digest(f"{algorithm(said)}:{self._diff.hexdigest()}")
            if found != said:
                raise ArtifactError(
                    f"{where}: decompressed it hashes to {found}, but the model's config says "
                    f"{said}: refused; build the model again"
                )
        diff_id = said if said is not None else Digest(f"sha256:{self._diff.hexdigest()}")
        self._content.finish(diff_id)


def index_content(content: Content, where: str) -> TarIndex:
    """The index of content that is all there, read again. :class:`ArtifactError`."""
    steps = index_tar(content.size, where)
    try:
        want = next(steps)
        while True:
            want = steps.send(content.read(want.offset, want.most))
    except StopIteration as done:
        index: TarIndex = done.value
        return index
