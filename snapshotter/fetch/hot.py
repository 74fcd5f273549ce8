"""What was just received and will be read soon, in the buffers it arrived in.

A copy in memory of what the cache has too, for the moment between its arrival and its
reading: who reads forward is answered from it, so that the disk may have its copy without the
memory for another one. Of nothing that is here anybody has to know: it may go at any time.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Protocol

from snapshotter.buffers import page_aligned

PIECE = 1 << 20
"""Bytes of one buffer: received before they are written and counted as there."""
STALE = 2.0
"""Seconds after which a piece that nobody read makes room for a younger one."""


class Blob(Protocol):
    """What has to be known of a blob: :class:`snapshotter.cache.blob.Blob`."""

    @property
    def losses(self) -> int: ...


@dataclass(slots=True, eq=False)
class Piece:
    """Bytes of a blob from ``start`` on, in a buffer of the pool."""

    blob: Blob
    start: int
    data: memoryview
    buffer: memoryview
    losses: int
    """Of the blob before they were written: see :attr:`Blob.losses`."""
    since: float
    unread: int
    users: int = 1
    """Who uses the buffer now, beginning with who received it."""
    ended: bool = False
    """The buffer may be another's by now."""

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def overlap(self, blob: Blob, start: int, end: int) -> int:
        """How many bytes it has of ``[start, end)``."""
        return min(self.end, end) - max(self.start, start) if self.blob is blob else 0


@dataclass(slots=True)
class Taken:
    """The bytes of a read, valid until they are put back."""

    views: list[memoryview]
    pieces: list[Piece]


class HotPieces:
    """The buffers, and what is in them. Thread-safe; nothing here waits."""

    def __init__(self, limit: int) -> None:
        """At most ``limit`` bytes; less than one buffer: none is ever lent."""
        self._lock = threading.Lock()
        self._most = limit // PIECE
        self._made = 0
        self._free: list[memoryview] = []
        self._pieces: dict[Piece, None] = {}
        """Those that are known, in the order of their arrival."""

    def lend(self) -> memoryview | None:
        """A buffer to receive into; None when all are in use."""
        with self._lock:
            if not self._free:
                oldest = next(iter(self._pieces), None)
                if oldest is not None and oldest.since + STALE < time.monotonic():
                    self._drop(oldest)
            if self._free:
                return self._free.pop()  # the one used last: it may be in the processor's cache
            if self._made >= self._most:
                return None
            self._made += 1
            return page_aligned(PIECE)

    def give_back(self, buffer: memoryview) -> None:
        """What was lent, and was not kept."""
        with self._lock:
            self._free.append(buffer)

    def keep(self, blob: Blob, start: int, buffer: memoryview, size: int) -> Piece:
        """Know the first ``size`` bytes of a lent ``buffer`` as those of ``blob`` from ``start``.

        To be called before they are written to the cache; `done` ends the caller's use.
        """
        losses = blob.losses
        piece = Piece(
            blob, start, buffer[:size].toreadonly(), buffer, losses, time.monotonic(), size
        )
        with self._lock:
            self._pieces[piece] = None
        return piece

    def done(self, piece: Piece, *, read: int = 0, good: bool = True) -> None:
        """Who received it has given out ``read`` bytes of it; or it is not ``good`` to keep."""
        with self._lock:
            piece.unread -= read
            piece.users -= 1
            if not good or piece.unread <= 0:
                self._drop(piece)
            self._reclaim(piece)

    def take(self, blob: Blob, start: int, end: int) -> Taken | None:
        """The bytes ``[start, end)`` to be read now, if all are here. Put them back.

        The caller knows that they are in the cache: what was lost there is not here either.
        """
        with self._lock:
            found = [piece for piece in self._pieces if piece.overlap(blob, start, end) > 0]
            for piece in found:
                if piece.losses != blob.losses:
                    self._drop(piece)
            found = sorted((p for p in found if p in self._pieces), key=lambda piece: piece.start)
            at = start
            for piece in found:
                if piece.start > at:
                    break
                at = max(at, piece.end)
            if at < end:
                for piece in found:
                    self._read(piece, piece.overlap(blob, start, end))
                return None
            views, at = [], start
            for piece in found:
                views.append(
                    piece.data[at - piece.start : max(at, min(piece.end, end)) - piece.start]
                )
                at = max(at, min(piece.end, end))
                piece.users += 1
            return Taken(views, found)

    def put_back(self, taken: Taken) -> None:
        """The bytes were read."""
        with self._lock:
            for piece, view in zip(taken.pieces, taken.views, strict=True):
                piece.users -= 1
                self._read(piece, len(view))

    @property
    def idle(self) -> bool:
        """Whether it holds no memory."""
        return not self._made

    def rest(self) -> None:
        """Nothing is fetched for now: give the memory back, but for what is just being used."""
        with self._lock:
            for piece in list(self._pieces):
                self._drop(piece)
            self._made -= len(self._free)
            self._free.clear()

    def forget(self, blob: Blob) -> None:
        """Nobody reads ``blob`` any more."""
        with self._lock:
            for piece in [piece for piece in self._pieces if piece.blob is blob]:
                self._drop(piece)

    # With the lock held

    def _read(self, piece: Piece, size: int) -> None:
        piece.unread -= size
        if piece.unread <= 0:
            self._drop(piece)
        self._reclaim(piece)

    def _drop(self, piece: Piece) -> None:
        if piece in self._pieces:
            del self._pieces[piece]
            self._reclaim(piece)

    def _reclaim(self, piece: Piece) -> None:
        if piece.users == 0 and piece not in self._pieces and not piece.ended:
            piece.ended = True
            self._free.append(piece.buffer)
