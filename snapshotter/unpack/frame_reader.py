"""Reading a layer at random: only the frames that have the bytes are fetched and decompressed.

Frames that were decompressed are kept in memory as far as there is room for them; what is being
fetched and decompressed at one time is bounded too, the rest waits its turn.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.errors import ModelpackError
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import ReadResult
from snapshotter.unpack.frames import Frames, decompress_frame

Fetch: TypeAlias = Callable[[int, int, Callable[[ReadResult], None]], None]
"""Asks for bytes ``[start, end)`` of the blob; answers as :meth:`Fetcher.read` does."""
Answer: TypeAlias = Callable[["bytes | ModelpackError"], None]
"""Told the bytes, :class:`FetchError` when they did not come, or :class:`ArtifactError` when
the frames are not what the seek table says. Must not block."""


class FramePool:
    """Memory and threads for frames of all layers. Thread-safe."""

    def __init__(self, threads: int, memory: int) -> None:
        self._threads = threads
        self._memory = memory
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Digest, int], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._busy = 0
        self._queue: deque[tuple[int, Callable[[], None]]] = deque()
        self._starting = False
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    def get(self, digest: Digest, number: int) -> bytes | None:
        with self._lock:
            found = self._kept.get((digest, number))
            if found is not None:
                self._kept.move_to_end((digest, number))
            return found

    def keep(self, digest: Digest, number: int, content: bytes) -> None:
        with self._lock:
            if (digest, number) not in self._kept:
                self._kept[digest, number] = content
                self._kept_bytes += len(content)
            while self._kept_bytes > self._memory:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])

    def forget(self, digest: Digest) -> None:
        with self._lock:
            for key in [key for key in self._kept if key[0] == digest]:
                self._kept_bytes -= len(self._kept.pop(key))

    def begin(self, size: int, work: Callable[[], None]) -> None:
        """Do ``work``, which takes ``size`` bytes of memory until :meth:`end`; now or later."""
        with self._lock:
            self._queue.append((size, work))
        self._go_on()

    def end(self, size: int) -> None:
        with self._lock:
            self._busy -= size
        self._go_on()

    def _go_on(self) -> None:
        """Begin what there is room for. Work that ends at once comes here again: it is left to
        who is here already, or the stack would grow with the queue."""
        with self._lock:
            if self._starting:
                return
            self._starting = True
        while (work := self._next()) is not None:
            work()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._queue:
                size, work = self._queue[0]
                if not self._busy or self._busy + size <= self._memory:
                    self._queue.popleft()
                    self._busy += size
                    return work
            self._starting = False
            return None

    def submit(self, work: Callable[[], None]) -> None:
        """In a thread of the pool; at its end in this one, for whoever still waits."""
        with self._lock:
            if self._executor is None and not self._closed:
                self._executor = ThreadPoolExecutor(
                    self._threads, thread_name_prefix="modelpack-frame"
                )
            if self._executor is not None:
                self._executor.submit(work)
                return
        work()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()


@dataclass(slots=True, eq=False)
class _Asked:
    """Bytes that somebody waits for, and the pieces of them that are there."""

    start: int
    end: int
    missing: set[int]
    answer: Answer
    pieces: dict[int, bytes] = field(default_factory=dict)


class FrameReader:
    """One layer's. Thread-safe."""

    def __init__(
        self, digest: Digest, where: str, frames: Frames, fetch: Fetch, pool: FramePool
    ) -> None:
        self.frames = frames
        self._digest = digest
        self._where = where
        self._fetch = fetch
        self._pool = pool
        self._lock = threading.Lock()
        self._coming: dict[int, list[_Asked]] = {}
        self._used: dict[int, bytes] = {}

    def read(self, start: int, end: int, answer: Answer) -> None:
        """Ask for ``[start, end)`` of the content. ``answer`` is called once, from any thread."""
        numbers = list(self.frames.touched(start, end))
        asked = _Asked(start, end, set(numbers), answer)
        begin = []
        with self._lock:
            for number in numbers:
                content = self._pool.get(self._digest, number)
                if content is not None:
                    self._take(asked, number, content)
                elif number in self._coming:
                    self._coming[number].append(asked)
                else:
                    self._coming[number] = [asked]
                    begin.append(number)
            there = not asked.missing
        if there:
            self._answer(asked)
        for number in begin:
            self._begin(number)

    def used(self, end: int) -> Sequence[tuple[int, int, bytes]]:
        """Once: of each frame before ``end`` that somebody was given bytes of, where its content
        is, and its BLAKE2b."""
        with self._lock:
            passed = [number for number in self._used if self.frames.bounds(number)[1] <= end]
            return [(*self.frames.bounds(number), self._used.pop(number)) for number in passed]

    def _begin(self, number: int) -> None:
        packed, content = self.frames.span(number), self.frames.bounds(number)
        cost = packed[1] - packed[0] + content[1] - content[0]

        def came(result: ReadResult) -> None:
            if isinstance(result, FetchError):
                self._pool.end(cost)
                self._came(number, result)
            else:
                data = b"".join(result)
                self._pool.submit(lambda: self._decompress(number, data, cost))

        self._pool.begin(cost, lambda: self._fetch(*packed, came))

    def _decompress(self, number: int, data: bytes, cost: int) -> None:
        start, end = self.frames.bounds(number)
        try:
            content: bytes | ModelpackError = decompress_frame(data, end - start, self._where)
        except ArtifactError as error:
            content = error
        if isinstance(content, bytes):
            self._pool.keep(self._digest, number, content)
        self._pool.end(cost)
        self._came(number, content)

    def _came(self, number: int, content: bytes | ModelpackError) -> None:
        with self._lock:
            waiting = self._coming.pop(number)
            failed = isinstance(content, ModelpackError)
            done = []
            for asked in waiting:
                if not asked.missing:
                    continue  # answered with an error
                if isinstance(content, bytes):
                    self._take(asked, number, content)
                else:
                    asked.missing.clear()
                if not asked.missing:
                    done.append(asked)
        for asked in done:
            if failed and isinstance(content, ModelpackError):
                asked.answer(content)
            else:
                self._answer(asked)

    def _take(self, asked: _Asked, number: int, content: bytes) -> None:
        """With the lock held."""
        begin, _ = self.frames.bounds(number)
        asked.pieces[number] = content[max(0, asked.start - begin) : asked.end - begin]
        asked.missing.discard(number)
        if number not in self._used:
            self._used[number] = hashlib.blake2b(content).digest()

    def _answer(self, asked: _Asked) -> None:
        asked.answer(b"".join(asked.pieces[number] for number in sorted(asked.pieces)))
