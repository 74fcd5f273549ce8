"""The threads that bring ranges: each asks what to fetch next, and brings it.

The lock they share with the readers guards the state; nothing slow happens under it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable

import structlog

from snapshotter.cache.blob import Blob
from snapshotter.cache.errors import CacheError
from snapshotter.cache.space import Space
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.hot import HotPieces
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.plan import backoff, next_range
from snapshotter.fetch.pressure import CpuPressure
from snapshotter.fetch.records import Fate, Flight, Read
from snapshotter.fetch.state import State
from snapshotter.fetch.stats import FetchStats
from snapshotter.fetch.worker import Worker, hand_over
from snapshotter.registry.blobs import RangeBody
from snapshotter.registry.errors import Busy, RegistryError
from snapshotter.throttle import Throttle

log = structlog.get_logger(__name__)

_UNCACHED = 30.0
"""Seconds without readahead and completion after the cache took no bytes."""
_REST = 10.0
"""Seconds without a range being fetched after which the buffers for them are given back."""
_JOIN = 5.0


class Couriers:
    """One thread for each connection, and the :class:`worker.Board` they report to."""

    def __init__(
        self,
        options: FetchOptions,
        state: State,
        lock: threading.Lock,
        hot: HotPieces,
        stats: FetchStats,
        space: Space | None,
        *,
        answer: Callable[[Read, memoryview], None],
        on_arrival: Callable[[Blob], None],
    ) -> None:
        """``answer`` is called with a read whose bytes are all there and a buffer to put them
        into, ``on_arrival`` when bytes of a blob have come and may be hashed."""
        self._options = options
        self._state = state
        self._lock = lock
        self._hot = hot
        self._stats = stats
        self._space = space
        self._answer = answer
        self._on_arrival = on_arrival
        self._work = threading.Condition(lock)
        self._pressure = CpuPressure()
        self._told = Throttle()
        self._idle = 0
        self._flew = -math.inf
        """When the latest range was begun."""
        self.closed = False
        """Nothing is begun any more."""
        self._threads = [
            threading.Thread(target=self._run, name=f"modelpack-fetch-{number}", daemon=True)
            for number in range(options.connections)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wake(self, now: float) -> None:
        """With the lock held: wake a thread if there is something to do for it."""
        if self._idle and next_range(self._state, now) is not None:
            self._work.notify()

    def wake_all(self) -> None:
        """With the lock held."""
        self._work.notify_all()

    def remind(self) -> None:
        """With the lock held: something is to be done at a time earlier than was known."""
        self._work.notify()

    def stop(self) -> list[RangeBody]:
        """With the lock held: begin nothing more. What is being received is to be closed."""
        self.closed = True
        self._work.notify_all()
        return [flight.body for flight in self._state.flights if flight.body is not None]

    def join(self) -> None:
        """Wait some seconds for the threads to end; one that does not is told of in the log."""
        patience = time.monotonic() + _JOIN
        for thread in self._threads:
            thread.join(max(0.0, patience - time.monotonic()))
            if thread.is_alive():
                log.warning("a request did not end in time", thread=thread.name)

    # The threads

    def _run(self) -> None:
        worker = Worker(self, self._hot)
        while self._fly_next(worker):
            pass

    def _fly_next(self, worker: Worker) -> bool:
        """Wait for a range to fetch, and bring it. False when there will be none any more."""
        flight = self._next_flight()
        if flight is None:
            return False
        error: Exception | None = None
        self._stats.count_request()
        try:
            worker.fly(flight)
        except RegistryError as raised:
            error = raised
        except Exception as raised:
            log.exception("fetching failed unexpectedly", digest=flight.download.blob.digest)
            error = raised
        self._ended(flight, error)
        return True

    def _next_flight(self) -> Flight | None:
        while True:
            with self._lock:
                if self.closed:
                    return None
                now = time.monotonic()
                expired = self._state.expire(now)
                if not expired:
                    chosen = next_range(self._state, now)
                    if chosen is not None:
                        flight = self._state.begin(chosen, now)
                        self._flew = now
                        self.wake(now)
                        return flight
                    if not self._state.flights and now >= self._flew + _REST:
                        self._hot.rest()
                    self._idle += 1
                    event = self._state.next_event(now)
                    if not self._hot.idle:
                        event = min(event, _REST)
                    self._work.wait(None if math.isinf(event) else event)
                    self._idle -= 1
            self._fail_late(expired)

    # Where flights report

    def started(self, flight: Flight, body: RangeBody) -> None:
        with self._lock:
            flight.body = body
            closed = self.closed
        if closed:
            body.close()

    def asking(self, flight: Flight, position: int, end: int) -> int:
        with self._lock:
            return self._state.asking(flight, position, end)

    def fate(self, flight: Flight, end: int) -> Fate:
        with self._lock:
            return self._state.fate(flight, end, time.monotonic())

    def answer(self, read: Read, scratch: memoryview) -> None:
        self._answer(read, scratch)

    def landed(self, flight: Flight, data: memoryview, failure: CacheError | None) -> list[Read]:
        self._stats.count_bytes(len(data))
        download = flight.download
        now = time.monotonic()
        with self._lock:
            self._state.cpu_short = self._pressure.short(now)
            ready = self._state.landed(flight, data, cached=failure is None, now=now)
            expired = self._state.expire(now)
            bad = download.why_bad
            if failure is not None and bad is None:
                if self._state.uncached_until < now:
                    log.warning("the cache takes no bytes, reading on without", error=str(failure))
                self._state.uncached_until = now + _UNCACHED
            self._state.full = self._space is not None and not self._space.plenty
        if failure is None and download.blob.complete:
            self._on_arrival(download.blob)
        self._fail_late(expired)
        if bad is None:
            return ready
        for read in ready:
            hand_over(read, FetchError(bad))
        return []

    def _ended(self, flight: Flight, error: Exception | None) -> None:
        download = flight.download
        asked = getattr(error, "retry_after", None)
        with self._lock:
            if isinstance(error, Busy):
                delay = error.retry_after or 0.0
            else:
                delay = backoff(self._options, download.failures, asked, random.random())
            failed = self._state.ended(flight, error, delay, time.monotonic())
            closed = self.closed
        self._on_arrival(download.blob)
        # Reads that fail are told of where their file is known.
        if error is not None and not closed and not failed and not isinstance(error, Busy):
            self._tell(flight, error, delay)
        for read in failed:
            failure = FetchError(str(error))
            failure.__cause__ = error
            hand_over(read, failure)

    def _tell(self, flight: Flight, error: Exception, delay: float) -> None:
        """One line for all failures of one kind at a host: a storm has thousands."""
        kind = getattr(error, "host", ""), type(error), getattr(error, "status", None)
        kept_back = self._told.admit(kind)
        if kept_back is not None:
            log.info(
                "range failed, trying again",
                blob=flight.model.origins[flight.download].name,
                start=flight.start,
                end=flight.end,
                error=str(error),
                next_attempt_in=round(delay, 1),
                alike_not_logged=kept_back,
            )

    def _fail_late(self, expired: list[Read]) -> None:
        for read in expired:
            hand_over(read, self._late(read))

    def _late(self, read: Read) -> FetchError:
        last = read.download.last_error
        failure = FetchError(
            f"{read.model.origins[read.download].name}: bytes {read.start}-{read.end - 1} "
            f"did not come within {self._options.read_deadline:g} s; "
            f"last error: {last or 'none, the registry is too slow'}"
        )
        failure.__cause__ = last
        return failure
