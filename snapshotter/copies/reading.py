"""Ranges of blobs for somebody who waits for them, without a cache: memory is all they take."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.marker import ModelRef
from snapshotter.copies.errors import CopyError
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.plan import backoff
from snapshotter.registry.blobs import BlobOrigin, RangeBody
from snapshotter.registry.errors import RegistryError

PIECE = 4 << 20
"""Bytes of one request when a long range is read."""
_AT_ONCE = 4
"""Such requests at the same time. With what was read and not taken yet: 32 MiB at most."""
_STEP = 256 << 10
"""Bytes after which what came is kept when the connection breaks."""


class Origins(Protocol):
    """What is asked of a :class:`~snapshotter.registry.client.Registry`."""

    def origin(self, registry: str, repository: str, descriptor: Descriptor) -> BlobOrigin: ...


class Blobs:
    """The blobs of one model, to be read and closed. Thread-safe."""

    def __init__(self, origins: Origins, ref: ModelRef, options: FetchOptions) -> None:
        """``options``: how long a failing registry is waited for."""
        self._origins = origins
        self._ref = ref
        self._options = options
        self._lock = threading.Lock()
        self._known: dict[Digest, BlobOrigin] = {}
        self._all = _Asking()
        self.fetched_bytes = 0

    def read(self, descriptor: Descriptor, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer only at the end of the blob.

        Raises :class:`RegistryError` when they do not come, :class:`CopyError` after `close`.
        """
        return self._bring(descriptor, start, min(start + length, descriptor.size), self._all)

    def pieces(self, descriptor: Descriptor, start: int, end: int) -> Generator[bytes, None, None]:
        """Bytes ``[start, end)`` in order, some pieces being fetched while one is used.

        Closing the iterator breaks off what is under way.
        """
        asking, coming = self._all.part(), deque[Future[bytes]]()
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="modelpack-read") as threads:
            try:
                while start < end or coming:
                    while start < end and len(coming) < _AT_ONCE:
                        stop = min(start + PIECE, end)
                        coming.append(threads.submit(self._bring, descriptor, start, stop, asking))
                        start = stop
                    yield coming.popleft().result()
            finally:
                for future in coming:
                    future.cancel()
                asking.stop()

    def close(self) -> None:
        """Break off what is being read. Idempotent."""
        self._all.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _bring(self, descriptor: Descriptor, start: int, end: int, asking: _Asking) -> bytes:
        content = bytearray(max(0, end - start))
        view, done, failures = memoryview(content), 0, 0
        patience = self._options.read_deadline
        deadline = time.monotonic() + patience
        while done < len(view):
            before = done
            try:
                body = self._origin(descriptor).open(start + done, end)
                with asking.of(body):
                    while done < len(view):
                        count = body.readinto(view[done : done + _STEP])
                        self._count(count)
                        done += count
            except RegistryError as error:
                asking.check()
                if done > before:
                    failures, deadline = 0, time.monotonic() + patience
                pause = backoff(self._options, failures, error.retry_after, random.random())
                if not error.temporary or time.monotonic() + pause > deadline:
                    raise
                failures += 1
                asking.stopped.wait(pause)
        return bytes(content)

    def _count(self, count: int) -> None:
        with self._lock:
            self.fetched_bytes += count

    def _origin(self, descriptor: Descriptor) -> BlobOrigin:
        with self._lock:
            origin = self._known.get(descriptor.digest)
            if origin is None:
                origin = self._known[descriptor.digest] = self._origins.origin(
                    self._ref.registry, self._ref.repository, descriptor
                )
            return origin


class _Asking:
    """What is being read for one who waits, so that it can be broken off. Thread-safe."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._under_way: set[RangeBody | _Asking] = set()

    def part(self) -> _Asking:
        """One that also ends with this."""
        part = _Asking()
        with self._lock:
            self._under_way = {
                one for one in self._under_way if not isinstance(one, _Asking) or one.running
            }
            self._under_way.add(part)
        if self.stopped.is_set():
            part.stop()
        return part

    @property
    def running(self) -> bool:
        return not self.stopped.is_set()

    def check(self) -> None:
        """Raises :class:`CopyError` once it is stopped."""
        if self.stopped.is_set():
            raise CopyError("reading was broken off")

    @contextmanager
    def of(self, body: RangeBody) -> Iterator[None]:
        with body:
            with self._lock:
                self._under_way.add(body)
            try:
                self.check()
                yield
            finally:
                with self._lock:
                    self._under_way.discard(body)

    def stop(self) -> None:
        self.stopped.set()
        with self._lock:
            under_way, self._under_way = self._under_way, set()
        for one in under_way:
            one.stop() if isinstance(one, _Asking) else one.close()
