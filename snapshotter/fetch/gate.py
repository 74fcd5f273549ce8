"""Between a blob and its readers: a gate gives out only bytes that are known to be right.

Of a blob with a trusted chunk list each chunk is hashed before its first byte is given
out: :class:`ChunkGate` here. Of others, where that is asked for, the whole blob is:
see strict.py. A gate stands above fetching: what it needs it reads as any reader does.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

import structlog

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.buffers import ThreadBuffer
from snapshotter.cache.blob import Blob
from snapshotter.cache.errors import Unreadable
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.stats import FetchStats

if TYPE_CHECKING:
    from snapshotter.fetch.records import LoadedModel, ReadResult

ATTEMPTS = 3
"""How often a chunk that keeps coming wrong is fetched, from another host if there is one."""
BAD_SECONDS = 10.0
"""How long reads of a chunk that kept coming wrong fail at once."""
_KEPT = 4
"""Right chunks that are kept in memory of a blob whose bytes the cache does not take."""

Deliver: TypeAlias = "Callable[[ReadResult], None]"

log = structlog.get_logger(__name__)


class Below(Protocol):
    """What a gate needs of the fetcher."""

    stats: FetchStats

    def bring(
        self,
        model: LoadedModel,
        blob: Blob,
        start: int,
        end: int,
        stream: Hashable,
        deliver: Deliver,
    ) -> None:
        """As :meth:`Fetcher.read`, past any gate."""
        ...

    def distrust(self, model: LoadedModel, blob: Blob) -> None:
        """What came of ``blob`` was wrong: ask another host if there is one."""
        ...

    def urge(self, blob: Blob) -> None:
        """Somebody waits for ``blob`` to be hashed."""
        ...

    def fits(self, blob: Blob) -> bool:
        """Whether the cache may have room for all of ``blob``."""
        ...

    def lost(self, blob: Blob, error: Unreadable) -> None:
        """The disk did not give bytes of ``blob``: nothing of it counts any more."""
        ...

    def submit(self, work: Callable[[], None]) -> None:
        """Do ``work`` in a thread that may wait."""
        ...


class Gate(Protocol):
    """Thread-safe."""

    def read(
        self, model: LoadedModel, start: int, end: int, stream: Hashable, deliver: Deliver
    ) -> None:
        """As :meth:`Fetcher.read`; ``[start, end)`` is in the blob."""
        ...

    def sift(self) -> bool:
        """The blob does not hash to its digest: drop what is wrong, if that can be told."""
        ...

    def settled(self, error: Exception | None) -> None:
        """The whole blob was hashed and is right, or why it is not."""
        ...

    def close(self) -> None:
        """Fail the reads that wait. Idempotent."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A read that waits at a gate."""

    model: LoadedModel
    start: int
    end: int
    stream: Hashable
    deliver: Deliver


def hand_out(
    below: Below, blob: Blob, read: Waiting, losses: int, again: Callable[[], None]
) -> None:
    """Answer ``read``, all of which is known to be right since there were ``losses``.

    ``again`` is called instead when something was lost before it was answered.
    """

    def deliver(result: ReadResult) -> None:
        if isinstance(result, FetchError) or blob.losses == losses:
            read.deliver(result)
        else:
            below.submit(again)

    below.bring(read.model, blob, read.start, read.end, read.stream, deliver)


class ChunkGate:
    """Waits for whole chunks, and hashes each before anything of it is given out."""

    def __init__(self, blob: Blob, chunks: ChunkDigests, below: Below) -> None:
        self._blob = blob
        self._chunks = chunks
        self._below = below
        self._lock = threading.Lock()
        self._waiting: dict[int, list[Waiting]] = {}
        self._bad: dict[int, tuple[float, FetchError]] = {}
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._closed = False
        self._buffer = ThreadBuffer(min(chunks.chunk_size, blob.size))

    def read(
        self, model: LoadedModel, start: int, end: int, stream: Hashable, deliver: Deliver
    ) -> None:
        losses = self._blob.vouched(start, end)
        if losses is not None:
            again = partial(self.read, model, start, end, stream, deliver)
            hand_out(
                self._below, self._blob, Waiting(model, start, end, stream, deliver), losses, again
            )
            return
        numbers = self._chunks.touched(start, end)
        joined = deliver if len(numbers) == 1 else None
        parts = _Parts(len(numbers), deliver)
        for place, number in enumerate(numbers):
            first, last = self._chunks.span(number)
            part = Waiting(
                model, max(start, first), min(end, last), stream, joined or parts.at(place)
            )
            self._wait(number, part)

    def sift(self) -> bool:
        wrong = [number for number in range(len(self._chunks)) if not self._right(number)]
        for number in wrong:
            self._drop(number, "the cache")
        return bool(wrong)

    def settled(self, error: Exception | None) -> None:
        if error is not None:
            for number in list(self._waiting):
                self._fail(number, FetchError(str(error)))

    def close(self) -> None:
        with self._lock:
            self._closed = True
        for number in list(self._waiting):
            self._fail(number, _closed(self._blob))

    # Waiting for a chunk

    def _wait(self, number: int, read: Waiting) -> None:
        failure, kept, first = None, None, False
        with self._lock:
            until, known = self._bad.get(number, (0.0, None))
            if self._closed:
                failure = _closed(self._blob)
            elif known is not None and time.monotonic() < until:
                failure = known
            elif (kept := self._kept.get(number)) is None:
                waiting = self._waiting.setdefault(number, [])
                first = not waiting
                waiting.append(read)
        if failure is not None:
            _deliver(read, failure)
        elif kept is not None:
            self._give(read, number, memoryview(kept))
        elif first:
            self._below.submit(partial(self._bring, number, read, 1))

    def _bring(self, number: int, read: Waiting, attempt: int) -> None:
        losses = self._blob.losses
        self._below.bring(
            read.model,
            self._blob,
            *self._chunks.span(number),
            read.stream,
            partial(self._arrived, number, read, attempt, losses),
        )

    def _arrived(
        self, number: int, read: Waiting, attempt: int, losses: int, result: ReadResult
    ) -> None:
        """In a thread that fetches: hashing there makes way for the network, and for no reader."""
        if isinstance(result, FetchError):
            self._fail(number, result, of=read.model)
            return
        start, end = self._chunks.span(number)
        seen = self._blob.losses
        try:
            # What is hashed must be what the cache has, which need not be what came last.
            there = self._blob.has(start, end)
            data = self._cached(start, end) if there else memoryview(b"".join(result))
        except Unreadable as error:
            self._below.lost(self._blob, error)
            self._below.submit(partial(self._bring, number, read, attempt))
            return
        if not self._chunks.right(number, data):
            # Of what was evicted while it was read nothing can be said.
            gone = there and self._blob.losses != seen
            again = self._bring if gone else self._wrong
            self._below.submit(partial(again, number, read, attempt))
            return
        self._below.stats.count_chunk(right=True)
        if not self._blob.vouch(start, end, losses) and not there:
            self._keep(number, bytes(data))
        for waiting in self._take(number):
            self._give(waiting, number, data)

    def _wrong(self, number: int, read: Waiting, attempt: int) -> None:
        name = self._drop(number, read.model.name_of(self._blob))
        self._below.distrust(read.model, self._blob)
        if attempt < ATTEMPTS:
            self._bring(number, read, attempt + 1)
            return
        error = FetchError(f"{name} came wrong {attempt} times; it is not served")
        with self._lock:
            self._bad[number] = (time.monotonic() + BAD_SECONDS, error)
        self._fail(number, error)

    def _drop(self, number: int, source: str) -> str:
        start, end = self._chunks.span(number)
        name = f"chunk {number} of {self._blob.digest} (bytes {start}-{end - 1}) from {source}"
        log.error("wrong bytes in a chunk, none of it is served", chunk=name)
        self._below.stats.count_chunk(right=False)
        self._blob.drop(start, end)
        return name

    # Answering

    def _give(self, read: Waiting, number: int, data: memoryview) -> None:
        start, _ = self._chunks.span(number)
        _deliver(read, (data[read.start - start : read.end - start].toreadonly(),))

    def _fail(self, number: int, error: FetchError, *, of: LoadedModel | None = None) -> None:
        """Fail who waits for the chunk; with ``of`` only for that model, others try on."""
        waiting = self._take(number)
        for read in waiting:
            if of is None or read.model is of:
                _deliver(read, error)
            else:
                self._wait(number, read)

    def _take(self, number: int) -> list[Waiting]:
        with self._lock:
            return self._waiting.pop(number, [])

    def _keep(self, number: int, data: bytes) -> None:
        with self._lock:
            self._kept[number] = data
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    def _right(self, number: int) -> bool:
        """Whether the chunk is right, or not there any more."""
        start, end = self._chunks.span(number)
        losses = self._blob.losses
        return (
            not self._blob.has(start, end)
            or self._chunks.right(number, self._cached(start, end))
            or self._blob.losses != losses
        )

    def _cached(self, start: int, end: int) -> memoryview:
        """Valid until this thread's next call. Raises :class:`Unreadable`."""
        view = self._buffer.get()[: end - start]
        self._blob.readinto(start, view)
        return view


class _Parts:
    """The answers for the chunks of one read, put together."""

    def __init__(self, count: int, deliver: Deliver) -> None:
        self._lock = threading.Lock()
        self._missing = count
        self._pieces: list[bytes] = [b""] * count
        self._error: FetchError | None = None
        self._deliver = deliver
        if count == 0:
            deliver(())

    def at(self, place: int) -> Deliver:
        def deliver(result: ReadResult) -> None:
            with self._lock:
                if isinstance(result, FetchError):
                    self._error = result
                else:
                    self._pieces[place] = b"".join(result)
                self._missing -= 1
                if self._missing:
                    return
            self._deliver(self._error or [memoryview(piece) for piece in self._pieces])

        return deliver


def _closed(blob: Blob) -> FetchError:
    return FetchError(f"{blob.digest}: not fetched, the fetcher is closed")


def _deliver(read: Waiting, result: ReadResult) -> None:
    """What a receiver does wrong is logged, and harms nobody else."""
    try:
        read.deliver(result)
    except Exception:
        log.exception("the receiver of a read failed", start=read.start, end=read.end)
