"""A gate that gives out nothing of a blob before all of it was hashed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import partial
from typing import TYPE_CHECKING

from snapshotter.cache.blob import Blob, BlobState
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.gate import Below, Deliver, Waiting, hand_out

if TYPE_CHECKING:
    from snapshotter.fetch.records import LoadedModel, ReadResult

_STEP = 1 << 20
_ATTEMPTS = 3
"""How often a blob is read through that the cache did not take whole, as room is made for it."""
_ROOM = 1.0
"""Seconds between these."""
_LOOK = 2.0
"""Seconds between looks at whether what was complete still is: the disk may lose bytes."""


class StrictGate:
    """Reads the blob forward for those who wait, has it hashed meanwhile, then lets them in."""

    def __init__(self, blob: Blob, below: Below) -> None:
        self._blob = blob
        self._below = below
        self._lock = threading.Lock()
        self._waiting: list[Waiting] = []
        self._pulling = False
        self._closed = False

    def read(
        self, model: LoadedModel, start: int, end: int, stream: Hashable, deliver: Deliver
    ) -> None:
        read = Waiting(model, start, end, stream, deliver)
        if self._hand_out(read):
            return
        if not self._below.fits(self._blob):
            deliver(self._no_room(model))
            return
        with self._lock:
            closed, begin = self._closed, not self._pulling
            if not closed:
                self._waiting.append(read)
                self._pulling = True
        if closed:
            deliver(FetchError(f"{self._blob.digest}: not fetched, the fetcher is closed"))
        elif begin:
            self._below.urge(self._blob)
            self._below.submit(partial(self._pull, model, 0, 1))
        if self._blob.state is BlobState.VERIFIED:
            self.settled(None)

    def sift(self) -> bool:
        return False

    def settled(self, error: Exception | None) -> None:
        for read in self._take():
            if error is not None:
                read.deliver(FetchError(str(error)))
            else:
                self._again(read)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self.settled(FetchError(f"{self._blob.digest}: not fetched, the fetcher is closed"))

    def _hand_out(self, read: Waiting) -> bool:
        losses = self._blob.vouched(0, self._blob.size)
        if losses is None and self._blob.state is not BlobState.BAD:
            return False
        # Below is known why a bad blob is bad, and nothing of it is there.
        hand_out(self._below, self._blob, read, losses or 0, partial(self._again, read))
        return True

    def _again(self, read: Waiting) -> None:
        self.read(read.model, read.start, read.end, read.stream, read.deliver)

    # Fetching all of it: as a reader that reads forward, so that much is fetched at a time

    def _pull(self, model: LoadedModel, position: int, attempt: int) -> None:
        end = min(position + _STEP, self._blob.size)

        def deliver(result: ReadResult) -> None:
            error = result if isinstance(result, FetchError) else None
            self._below.submit(partial(self._pulled, model, end, attempt, error))

        stream = ("strict", self._blob.digest)
        self._below.bring(model, self._blob, position, end, stream, deliver)

    def _pulled(
        self, model: LoadedModel, position: int, attempt: int, error: FetchError | None
    ) -> None:
        if error is not None:
            self._give_up(error, model)
        elif position < self._blob.size:
            self._pull(model, position, attempt)
        elif not self._blob.complete and self._blob.state is not BlobState.BAD:
            if attempt < _ATTEMPTS:
                self._later(_ROOM, partial(self._pull, model, 0, attempt + 1))
            else:
                self._give_up(self._no_room(model))
        else:
            self._below.urge(self._blob)
            self._later(_LOOK, partial(self._look, model))

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, self._below.submit, (work,))
        timer.daemon = True
        timer.start()

    def _no_room(self, model: LoadedModel) -> FetchError:
        return FetchError(
            f"{model.name_of(self._blob)}: the cache did not take all of it, so it cannot "
            "be verified before it is served; make room, or do without verify.mode strict"
        )

    def _look(self, model: LoadedModel) -> None:
        """Hashing takes its time; but nobody may wait for what will not come."""
        with self._lock:
            if self._closed or not self._waiting:
                self._pulling = False
                return
        state = self._blob.state
        if state in (BlobState.VERIFIED, BlobState.BAD):
            self.settled(None)
        self._pulled(model, self._blob.size, 1, None)

    def _give_up(self, error: FetchError, of: LoadedModel | None = None) -> None:
        """Fail who waits; with ``of`` only for that model, others try on."""
        with self._lock:
            self._pulling = False
            waiting, self._waiting = self._waiting, []
        for read in waiting:
            if of is None or read.model is of:
                read.deliver(error)
            else:
                self._below.submit(partial(self._again, read))

    def _take(self) -> list[Waiting]:
        with self._lock:
            waiting, self._waiting = self._waiting, []
            return waiting
