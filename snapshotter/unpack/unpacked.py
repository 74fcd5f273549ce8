"""A compressed layer whose content is read while it comes out, or before it does."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import Archive
from snapshotter.artifact.names import basename
from snapshotter.artifact.tar import TarEntry, TarIndex
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import Unreadable
from snapshotter.errors import ModelpackError
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import ReadResult
from snapshotter.units import format_size
from snapshotter.unpack.content import Content
from snapshotter.unpack.errors import UnpackError
from snapshotter.unpack.frame_reader import FrameReader
from snapshotter.unpack.stream import Stream

log = structlog.get_logger(__name__)

_TELL = 15.0
"""Seconds between two lines in the log while a mount waits."""
_NEAR = 8 << 20
"""Bytes behind what has passed that are waited for rather than decompressed twice."""
_order = itertools.count()


@dataclass(order=True, slots=True)
class _Waiting:
    end: int
    number: int
    offset: int = field(compare=False)
    deliver: Callable[[ReadResult], None] = field(compare=False)


class Unpacked:
    """Get one from :class:`.unpacker.Unpacker`. Thread-safe but where said otherwise.

    ``wake`` is called when somebody begins to wait.
    """

    def __init__(
        self,
        archive: Archive,
        blob: Blob,
        content: Content,
        index: TarIndex | None,
        stream: Stream | None,
        wake: Callable[[], None],
    ) -> None:
        self.archive = archive
        self.blob = blob
        """The compressed bytes."""
        self._content = content
        self._stream = stream
        self._index = index
        self._wake = wake
        self._lock = threading.Lock()
        self._news = threading.Condition(self._lock)
        self._readers: list[_Waiting] = []
        self._index_waiters: set[int] = set()
        self._passed = content.size if content.record is not None else 0
        self._promised = False
        """Mounted by a first header; there must be no second file."""
        self._frames: FrameReader | None = None
        self._in_order = True
        self._read_begun = False
        self._failure: ModelpackError | None = None
        self._trouble: ModelpackError | None = None

    @property
    def done(self) -> bool:
        """All of it is there, verified and durable."""
        return self._content.record is not None

    @property
    def state(self) -> BlobState:
        """As a blob's: it is verified once it is done."""
        if self._failure is not None:
            return BlobState.BAD
        return BlobState.VERIFIED if self.done else BlobState.PARTIAL

    @property
    def failure(self) -> ModelpackError | None:
        """Why it can never be served."""
        return self._failure

    @property
    def passed(self) -> int:
        """Bytes of the content that can be read."""
        return self._passed

    @property
    def resting(self) -> bool:
        """It is read at random, and nobody has read anything yet: it need not be unpacked."""
        return not (self._in_order or self._read_begun or self._index is None)

    @property
    def path(self) -> Path:
        """The file the content lies in, as far as it has passed."""
        return self._content.path

    @property
    def urgency(self) -> int:
        """2 while a reader waits, 1 while a mount does."""
        return 2 if self._readers else min(1, len(self._index_waiters))

    # For mounts

    def index(self, patience: float) -> TarIndex:
        """The names and places of its files; waits for at most ``patience`` seconds.

        They are known when all of it has passed and is right, or the first header where the
        producer says that there is one file. Raises :class:`ArtifactError`, :class:`FetchError`, or
        :class:`UnpackError` when it took too long.
        """
        number = next(_order)
        with self._lock:
            self._index_waiters.add(number)
        self._wake()
        try:
            with self._news:
                return self._wait_for_index(patience, number)
        finally:
            with self._lock:
                self._index_waiters.discard(number)

    def wait(self) -> None:
        """Wait until it is :attr:`done`. Raises why it can never be, or does not go on."""
        number = next(_order)
        with self._lock:
            self._read_begun = True
            self._index_waiters.add(number)
        self._wake()
        try:
            with self._news:
                while not self.done:
                    if self._failure is not None:
                        raise self._failure.with_traceback(None)
                    if number not in self._index_waiters and self._trouble is not None:
                        raise self._trouble.with_traceback(None)
                    self._news.wait()
        finally:
            with self._lock:
                self._index_waiters.discard(number)

    def _wait_for_index(self, patience: float, number: int) -> TarIndex:
        began = told = time.monotonic()
        while True:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if self._index is not None:
                return self._index
            if (early := self._single()) is not None:
                self._promised = True
                return early
            if number not in self._index_waiters and self._trouble is not None:
                raise self._trouble.with_traceback(None)
            now = time.monotonic()
            if now - began >= patience:
                raise UnpackError(self._late(patience))
            if now - told >= _TELL:
                told = now
                log.info("waiting for a compressed layer", progress=self._progress())
            self._news.wait(min(_TELL, patience - (now - began)))

    def _single(self) -> TarIndex | None:
        said = self.archive.single
        stream = self._stream
        if said is None or stream is None:
            return None
        entries = tuple(stream.entries)
        others = [entry for entry in entries if not entry.is_directory]
        if len(others) == 1 and _is(others[0], said):
            return TarIndex(entries)
        return None

    def _late(self, patience: float) -> str:
        return (
            f"{self._progress()}: its files are known only at its end, which did not come "
            f"within {patience:g} s (mount_wait in [unpack]); it is unpacked on: try again, or "
            "publish the model with uncompressed layers, which mount at once"
        )

    def _progress(self) -> str:
        taken = self._stream.taken if self._stream is not None else self.blob.size
        return (
            f"{self.archive.where}: {format_size(taken)} of {format_size(self.blob.size)} "
            f"compressed bytes unpacked"
        )

    # For readers

    def read(self, offset: int, size: int, deliver: Callable[[ReadResult], None]) -> None:
        """Ask for bytes ``[offset, offset + size)`` of the content, which are known to be in it.

        ``deliver`` is called exactly once, from any thread, also this one before `read`
        returns: with buffers valid during the call only, or a :class:`FetchError`. It must
        not block.
        """
        waiting = _Waiting(offset + size, next(_order), offset, deliver)
        with self._lock:
            first, self._read_begun = not self._read_begun, True
            far = not self._in_order and waiting.end > self._passed + _NEAR
            frames = self._frames if far and not self.done else None
        if frames is None:
            self._park(waiting)
        else:
            frames.read(offset, waiting.end, lambda came: self._from_frames(waiting, came))
            if first:
                self._wake()

    def _park(self, waiting: _Waiting) -> None:
        """Answer it, when the stream has come that far."""
        with self._lock:
            parked = self._failure is None and self._passed < waiting.end and not self.done
            if parked:
                heapq.heappush(self._readers, waiting)
        if parked:
            self._wake()
        else:
            self._answer(waiting)

    def _from_frames(self, waiting: _Waiting, came: bytes | ModelpackError) -> None:
        if self._failure is not None or self._passed >= waiting.end:
            self._park(waiting)
        elif isinstance(came, FetchError):
            _hand_over(waiting, came)
        elif isinstance(came, ModelpackError):
            self._read_in_order(came)
            self._park(waiting)
        elif self.blob.state is BlobState.BAD:
            self._park(waiting)  # the stream finds out, and says so
        else:
            _hand_over(waiting, (memoryview(came),))

    def _read_in_order(self, why: ModelpackError) -> None:
        """The frames are not what was said of them: there is still the stream."""
        with self._lock:
            known, self._in_order = self._in_order, True
        if not known:
            log.warning("a compressed layer is not read at random", error=str(why))

    def _answer(self, waiting: _Waiting) -> None:
        result: ReadResult
        try:
            data = self._content.read(waiting.offset, waiting.end - waiting.offset)
            result = (memoryview(data),)
        except Unreadable as error:
            self._content.doubt()
            result = FetchError(f"{error}; the layer is unpacked again with the next mount")
        if self._failure is not None:  # also when it was dropped while it was read
            result = FetchError(str(self._failure))
        _hand_over(waiting, result)

    # For the thread that unpacks; one at a time

    @property
    def stream(self) -> Stream | None:
        """None once there is nothing left to do."""
        return self._stream

    @property
    def index_known(self) -> TarIndex | None:
        """The index, where it is known by now."""
        return self._index

    def read_at_random(self, frames: FrameReader, index: TarIndex | None) -> None:
        """From now on, by ``frames``; ``index`` was read through them."""
        with self._news:
            self._frames, self._in_order = frames, False
            self._index = self._index or index
            self._news.notify_all()

    def attempt(self) -> int:
        """A number for an attempt that begins: it is made for those who wait by now."""
        return next(_order)

    def advanced(self) -> None:
        """The stream has come further, or to its end."""
        stream = self._stream
        assert stream is not None
        if None not in (stream.index, self._index) and stream.index != self._index:
            raise UnpackError(
                f"{self.archive.where}: its headers are others than when they were read before: "
                "wrong bytes came, then or now, or its seek table is wrong; mount it again"
            )
        self._check_frames()
        if self._promised:
            others = [entry for entry in stream.entries if not entry.is_directory]
            if len(others) != 1:
                raise ArtifactError(
                    f"{self.archive.where}: it has {others[1].path[:120]!r} beside the one file "
                    "its annotations name: they are wrong; build the model again"
                )
        with self._news:
            self._passed = self._content.size
            if self.done:
                self._index, self._stream = stream.index, None
            ready = []
            while self._readers and (self._readers[0].end <= self._passed or self.done):
                ready.append(heapq.heappop(self._readers))
            self._news.notify_all()
        for waiting in ready:
            self._answer(waiting)

    def _check_frames(self) -> None:
        """What was read at random must be what the stream, which is verified, brought there."""
        if self._frames is None:
            return
        if self.done and self._frames.frames.size != self._content.size:
            raise ArtifactError(
                f"{self.archive.where}: its seek table says that it becomes "
                f"{self._frames.frames.size} bytes, it becomes {self._content.size}: build the "
                "model again"
            )
        for start, end, digest in self._frames.used(self._content.size):
            if hashlib.blake2b(self._content.read(start, end - start)).digest() != digest:
                raise ArtifactError(
                    f"{self.archive.where}: bytes {start}-{end - 1} of its content are others than "
                    "its seek table says: what was read of them is wrong; build the model again"
                )

    def troubled(self, error: ModelpackError, attempt: int) -> None:
        """It does not go on for now: who waited when ``attempt`` began gets ``error``.

        Who came later asked for another attempt, which may be luckier.
        """
        with self._news:
            self._trouble = error
            self._index_waiters = {one for one in self._index_waiters if one > attempt}
            readers = [one for one in self._readers if one.number < attempt]
            self._readers = [one for one in self._readers if one.number > attempt]
            heapq.heapify(self._readers)
            self._news.notify_all()
        self._fail_readers(readers, error)

    def failed(self, error: ModelpackError) -> None:
        """It can never be served; what has come out is dropped."""
        with self._news:
            self._failure = error
            self._content.clear()
            self._passed = 0
            readers, self._readers = self._readers, []
            self._news.notify_all()
        self._fail_readers(readers, error)

    def closed(self) -> None:
        """Nobody unpacks it any more. What is there without being complete is dropped."""
        if not self.done and self._failure is None:
            self.failed(UnpackError(f"{self.archive.where}: not unpacked any further: let go of"))
        self._stream = None

    def _fail_readers(self, readers: list[_Waiting], error: ModelpackError) -> None:
        for waiting in readers:
            _hand_over(waiting, FetchError(str(error)))


def _is(entry: TarEntry, said: tuple[str, int]) -> bool:
    return entry.is_regular and (basename(entry.path), entry.size) == said


def _hand_over(waiting: _Waiting, result: ReadResult) -> None:
    try:
        waiting.deliver(result)
    except Exception:
        log.exception("the receiver of a read failed", offset=waiting.offset, end=waiting.end)
