"""Bringing one range: from the origin into a buffer, from there to the cache and to whoever waits.

What may go on beside it is not known here; the three calls of :class:`Board` say
how far the range has come.
"""

from __future__ import annotations

import time
from typing import Protocol

import structlog

from snapshotter.buffers import page_aligned
from snapshotter.cache.blob import Blob
from snapshotter.cache.errors import CacheError
from snapshotter.fetch.hot import PIECE, HotPieces
from snapshotter.fetch.records import Fate, Flight, Read, ReadResult
from snapshotter.registry.blobs import RangeBody
from snapshotter.registry.errors import Unreachable

log = structlog.get_logger(__name__)

_FIRST_STEP = 64 << 10

PASSING = 256 << 10
"""Bytes from which a piece need not stay in memory that was handed over as it came.

The kernel keeps what it was answered in pages of the mount. A second copy in pages of the
cache's file is of use to nobody meanwhile, so that the file's pages are better used for the
bytes to come. Smaller pieces would make too many small writes of it.
"""
_KEPT = PIECE // 2
"""Bytes from which a piece is worth a buffer until it is read."""


class Board(Protocol):
    """Where flights report; thread-safe."""

    def started(self, flight: Flight, body: RangeBody) -> None: ...

    def asking(self, flight: Flight, position: int, end: int) -> int:
        """About to receive bytes ``position`` to ``end``; where to stop instead, if earlier."""
        ...

    def fate(self, flight: Flight, end: int) -> Fate:
        """What becomes of the bytes from the cursor to ``end``, which have arrived."""
        ...

    def landed(
        self, flight: Flight, data: memoryview, failure: CacheError | None
    ) -> list[Read]: ...

    def answer(self, read: Read, scratch: memoryview) -> None: ...


class Worker:
    """The buffers of one connection's thread. Not thread-safe."""

    def __init__(self, board: Board, hot: HotPieces) -> None:
        self._board = board
        self._hot = hot
        self._lent: memoryview | None = None
        self._own = page_aligned(PIECE)
        self._scratch = page_aligned(PIECE)
        self._step = _FIRST_STEP

    def fly(self, flight: Flight) -> None:
        """Bring ``flight``. Raises :class:`RegistryError`; what arrived before it is kept."""
        origin = flight.model.origins[flight.download]
        with origin.open(flight.start, flight.end) as body:
            self._board.started(flight, body)
            self._receive(flight, body, origin.name)

    def _receive(self, flight: Flight, body: RangeBody, name: str) -> None:
        filled = 0
        buffer = self._borrow()
        try:
            while (position := flight.cursor + filled) < (end := flight.end):
                due = min(flight.due, flight.cursor + PIECE)
                if position >= due:
                    self._land(flight, buffer, filled)
                    filled = 0
                    buffer = self._borrow()
                    continue
                stop = self._board.asking(flight, position, min(end, due, position + self._step))
                if stop <= position:
                    continue  # cut off meanwhile
                count = stop - position
                count = self._readinto(body, buffer[filled : filled + count])
                if count == 0:
                    raise Unreachable(
                        f"{name}: the body of bytes {flight.start}-{end - 1} "
                        f"ended after {position - flight.start}",
                        temporary=True,
                    )
                filled += count
        finally:
            if filled:
                self._land(flight, buffer, filled)
            if self._lent is not None:
                self._hot.give_back(self._lent)
                self._lent = None

    def _borrow(self) -> memoryview:
        """What to receive into: a buffer that can be kept, or else our own."""
        if self._lent is None:
            self._lent = self._hot.lend()
        return self._own if self._lent is None else self._lent

    def _readinto(self, body: RangeBody, buffer: memoryview) -> int:
        # The origin fills the buffer before it returns. Steps of some ten milliseconds
        # let a read that comes meanwhile be answered early, also on a slow line.
        began = time.monotonic()
        count = body.readinto(buffer)
        took = time.monotonic() - began
        if took > 0.05:
            self._step = max(_FIRST_STEP, self._step // 2)
        elif took < 0.02 and count == self._step:
            self._step = min(PIECE, self._step * 2)
        return count

    def _land(self, flight: Flight, buffer: memoryview, size: int) -> None:
        start, blob, data = flight.cursor, flight.download.blob, buffer[:size]
        fate = self._board.fate(flight, start + size) if size >= PASSING else Fate.STAYS
        piece = None
        if fate is Fate.SOON:
            if self._lent is not None and size >= _KEPT:
                piece = self._hot.keep(blob, start, self._lent, size)
                self._lent = None
            else:
                fate = Fate.STAYS
        given, good = 0, False
        try:
            failure = self._write(blob, start, data, passing=fate is not Fate.STAYS)
            for read in self._board.landed(flight, data, failure):
                if start <= read.start and read.end <= start + size:
                    hand_over(read, (data[read.start - start : read.end - start].toreadonly(),))
                    given += read.end - read.start
                else:
                    self._board.answer(read, self._scratch)
            good = failure is None
        finally:
            if piece is not None:
                self._hot.done(piece, read=given, good=good)

    @staticmethod
    def _write(blob: Blob, start: int, data: memoryview, *, passing: bool) -> CacheError | None:
        try:
            blob.write(start, data, passing=passing)
        except CacheError as error:
            return error
        return None


def hand_over(read: Read, result: ReadResult) -> None:
    """Answer ``read``. What its receiver does wrong is logged, and harms nobody else."""
    try:
        read.deliver(result)
    except Exception:
        log.exception("the receiver of a read failed", start=read.start, end=read.end)


def from_cache(blob: Blob, read: Read, scratch: memoryview) -> memoryview:
    """The bytes of ``read``, which are all there or received, in ``scratch`` where they fit.

    Raises :class:`CacheError` when the disk does not give them.
    """
    if read.buffer:
        view = memoryview(read.buffer)
        for start, end in read.received.missing(read.start, read.end):
            blob.readinto(start, view[start - read.start : end - read.start])
        return view.toreadonly()
    size = read.end - read.start
    view = scratch[:size] if size <= len(scratch) else page_aligned(size)
    blob.readinto(read.start, view)
    return view.toreadonly()
