"""The fetcher: what readers ask, around the one decision of plan.py.

A reader's thread notes what is read and parks what is not there. Each connection
has a thread (couriers.py) that asks for the next range, brings it (worker.py), and answers
the reads that became whole. One lock guards the state; nothing slow happens under it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from snapshotter.buffers import ThreadBuffer
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import CacheError, Unreadable
from snapshotter.cache.quarantine import Quarantine
from snapshotter.cache.ranges import RangeSet
from snapshotter.cache.space import Space
from snapshotter.fetch.couriers import Couriers
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.gates import Crew, gate_of
from snapshotter.fetch.hot import PIECE, HotPieces
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.records import Download, LoadedModel, Read, ReadResult
from snapshotter.fetch.state import State
from snapshotter.fetch.stats import FetchStats
from snapshotter.fetch.streams import Run
from snapshotter.fetch.strict import StrictGate
from snapshotter.fetch.verdicts import Verdicts
from snapshotter.fetch.verifier import Verifier
from snapshotter.fetch.verify_options import VerifyOptions
from snapshotter.fetch.worker import PASSING, from_cache, hand_over
from snapshotter.registry.blobs import BlobOrigin

if TYPE_CHECKING:
    from snapshotter.artifact.chunks import ChunkDigests
    from snapshotter.artifact.digest import Digest

__all__ = ["Fetcher", "LoadedModel", "ReadResult"]


def _ignore(_: Blob) -> None:
    pass


class Fetcher:
    """Brings bytes of models into their blobs, and to whoever reads them. Thread-safe.

    ``on_verified`` and ``on_bad`` are called, from a thread of ours, when a blob has
    been hashed. ``space`` and ``quarantine`` are what the cache has. Close it to end its
    threads.
    """

    def __init__(
        self,
        options: FetchOptions,
        verify: VerifyOptions | None = None,
        *,
        space: Space | None = None,
        quarantine: Quarantine | None = None,
        on_verified: Callable[[Blob], None] = _ignore,
        on_bad: Callable[[Blob], None] = _ignore,
    ) -> None:
        self.stats = FetchStats()
        self._options = options
        self._verify = verify or VerifyOptions()
        self._space = space
        self._crew = Crew()
        self._state = State(options)
        self._hot = HotPieces(options.memory)
        self._downloads: WeakValueDictionary[Digest, Download] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._scratch = ThreadBuffer(PIECE)
        self._verdicts = Verdicts(
            self,
            self._lock,
            self._state,
            self._downloads,
            quarantine,
            on_verified=on_verified,
            on_bad=on_bad,
        )
        self._verifier = Verifier(
            self._verdicts.verified,
            self._verdicts.condemn,
            self._busy,
            sift=self._verdicts.sift,
            on_unreadable=self._verdicts.unreadable,
            on_failed=self._verdicts.settle,
        )
        self._couriers = Couriers(
            options,
            self._state,
            self._lock,
            self._hot,
            self.stats,
            space,
            answer=self.answer,
            on_arrival=self._verifier.put,
        )
        self._couriers.start()

    def add_model(
        self,
        blobs: Sequence[tuple[Blob, BlobOrigin]],
        chunks: Mapping[Digest, ChunkDigests] | None = None,
        unwanted: Mapping[Digest, RangeSet] | None = None,
    ) -> LoadedModel:
        """Let ``blobs`` be read; their order is the order of background completion.

        A blob that occurs again, here or in another model, is fetched once. Of a blob in
        ``chunks``, whose digests are trusted, each chunk is hashed before it is read, also
        for other models that have it already. What is ``unwanted`` of a blob is not fetched but
        for who reads it. Raises :class:`FetchError` when the fetcher is closed.
        """
        origins: dict[Download, BlobOrigin] = {}
        with self._lock:
            if self._couriers.closed:
                raise FetchError("no model can be read: the fetcher is closed")
            for blob, origin in blobs:
                download = self._downloads.get(blob.digest)
                if download is None or download.blob is not blob:
                    download = self._downloads[blob.digest] = Download(blob)
                    self._verdicts.remember(download)
                known = (chunks or {}).get(blob.digest)
                if download.gate is None or (known and isinstance(download.gate, StrictGate)):
                    download.gate = gate_of(blob, known, self._verify, self)
                origins.setdefault(download, origin)
            parts = {d: r for d in origins if (r := (unwanted or {}).get(d.blob.digest))}
            model = LoadedModel(origins, parts)
            self._state.add_model(model)
        for download in origins:
            if download.blob.state is BlobState.COMPLETE:
                self._verifier.put(download.blob)
        return model

    def remove_model(self, model: LoadedModel) -> None:
        """Fetch nothing more for ``model`` but what is being waited for. Idempotent."""
        with self._lock:
            self._state.remove_model(model)
            gone = [download.blob for download in model.origins if not download.models]
        for blob in gone:
            self._hot.forget(blob)

    def arrange(
        self, model: LoadedModel, order: Sequence[Blob], pieces: Mapping[Blob, Sequence[int]]
    ) -> None:
        """Complete ``model`` in ``order``; blobs of it that are not named come last.

        ``pieces`` are sorted offsets where tensors begin and end in a blob: ahead of a reader
        inside one nothing is fetched behind its end, until the reader goes on to the next.
        """
        with self._lock:
            if model not in self._state.models:
                return
            known = {download.blob: download for download in model.origins}
            named = [known[blob] for blob in order if blob in known]
            model.arrange(list(dict.fromkeys([*named, *model.origins])))
            for blob, places in pieces.items():
                if blob in known:
                    known[blob].pieces = places
            self._couriers.wake(time.monotonic())

    def prefetch(self, model: LoadedModel, ranges: Sequence[tuple[Blob, int, int]]) -> None:
        """Fetch ``[start, end)`` of blobs of ``model`` in this order, behind what readers wait for.

        Does not wait, does not count as reading, and begins no completion of the model.
        """
        with self._lock:
            if model not in self._state.models:
                return
            known = {download.blob: download for download in model.origins}
            model.prefetch.extend(
                (known[blob], max(0, start), min(end, blob.size))
                for blob, start, end in ranges
                if blob in known
            )
            self._couriers.wake_all()

    def read(
        self,
        model: LoadedModel,
        blob: Blob,
        offset: int,
        size: int,
        stream: Hashable | None,
        deliver: Callable[[ReadResult], None],
    ) -> None:
        """Ask for ``size`` bytes from ``offset`` of ``blob``; less only at its end.

        Never waits for the network. ``deliver`` is called exactly once, from any
        thread, also this one before `read` returns: with buffers that are valid during
        the call only, or with a :class:`FetchError`. It must not block.

        ``stream`` names the reader, an open file for instance: reading forward is
        found for each. So ask for every read of a blob that is not complete, also of
        bytes that are there already. None is nobody: such a read says nothing of reads to
        come, and begins no completion of the model.
        """
        if offset < 0 or size < 0:
            raise ValueError(f"cannot read {size} bytes at {offset}")
        start, end = min(offset, blob.size), min(offset + size, blob.size)
        download = self._downloads.get(blob.digest)
        if download is not None and download.bad is not None:
            self._verdicts.forgive(download)
        if download is not None and download.gate is not None and start < end:
            download.gate.read(model, start, end, stream, deliver)
        else:
            self.bring(model, blob, start, end, stream, deliver)

    def bring(
        self,
        model: LoadedModel,
        blob: Blob,
        start: int,
        end: int,
        stream: Hashable,
        deliver: Callable[[ReadResult], None],
    ) -> None:
        """As `read`, whether or not the bytes are known to be right: for gates."""
        now = time.monotonic()
        with self._lock:
            download = self._downloads.get(blob.digest)
            if download is None or model not in self._state.models or download not in model.origins:
                read = None
            else:
                run = (
                    Run(start, end, end - start)
                    if stream is None
                    else self._state.note(model, download, start, end, stream, now)
                )
                deadline = now + self._options.read_deadline
                read = Read(download, model, start, end, run, deadline, deliver)
        if read is None:
            deliver(FetchError(f"{blob.digest} is no longer served: its model was unloaded"))
        else:
            self._answer_or_park(read)

    def use(self, model: LoadedModel) -> None:
        """The kernel reads a file of ``model`` by itself: that counts as reading it."""
        with self._lock:
            if self._options.background and model in self._state.models:
                begin = time.monotonic() + self._options.background_delay
                model.background_at = min(model.background_at, begin)
                self._couriers.remind()

    def close(self) -> None:
        """Fail the reads that wait, and end the threads. Idempotent."""
        with self._lock:
            bodies = self._couriers.stop()
            waiting = [self._state.drop(read) for read in list(self._state.reads)]
            gates = [d.gate for d in self._downloads.values() if d.gate is not None]
        for read in waiting:
            hand_over(read, _closed_error(read))
        for body in bodies:
            body.close()
        self._crew.close(gates)
        self._verifier.close()
        self._couriers.join()

    # Answering

    def _answer_or_park(self, read: Read) -> None:
        failure = None
        with self._lock:
            there = not read.download.lacks(read)
            bad = read.download.why_bad
            if bad is not None:
                failure = FetchError(bad)
            elif self._couriers.closed:
                failure = _closed_error(read)
            elif not there:
                self._state.park(read)
            self._couriers.wake(time.monotonic())
        if failure is not None:
            hand_over(read, failure)
        elif there:
            self.answer(read, self._scratch.get())

    def answer(self, read: Read, scratch: memoryview) -> None:
        """Answer a read whose bytes are all there (for workers, see :class:`worker.Board`)."""
        blob = read.download.blob
        losses = blob.losses
        there = not read.download.lacks(read)
        if there and (taken := self._hot.take(blob, read.start, read.end)) is not None:
            try:
                hand_over(read, taken.views)
                self.stats.count_hot(read.end - read.start)
            finally:
                self._hot.put_back(taken)
            return
        try:
            data = from_cache(blob, read, scratch) if there else memoryview(b"")
        except Unreadable as error:
            self.lost(blob, error)
        if not there or blob.losses != losses:
            # What was there ceased to be while it was read: wrong, evicted, or lost by the disk.
            self._answer_or_park(read)
        else:
            hand_over(read, (data,))
            if len(data) >= PASSING and read.download.gate is None:
                read.download.blob.passed(read.start, read.end)

    # What the cache says

    def made_room(self) -> None:
        """The cache takes bytes again, also those that nobody waits for."""
        with self._lock:
            self._state.uncached_until = 0
            self._state.full = False
            self._couriers.wake_all()

    def evicted(self, blob: Blob) -> None:
        """Bytes of ``blob`` are gone: they come again when somebody reads them."""
        with self._lock:
            download = self._downloads.get(blob.digest)
            if download is not None:
                self._state.forget(download)

    # Verification

    def _busy(self) -> bool:
        with self._lock:
            return self._state.busy(time.monotonic())

    def distrust(self, model: LoadedModel, blob: Blob) -> None:
        """For gates, see :class:`gate.Below`."""
        for download, origin in model.origins.items():
            if download.blob is blob:
                origin.distrust()

    def urge(self, blob: Blob) -> None:
        """For gates, see :class:`gate.Below`."""
        self._verifier.urge(blob)

    def fits(self, blob: Blob) -> bool:
        """For gates, see :class:`gate.Below`."""
        return self._space is None or blob.size <= self._space.allowed

    def lost(self, blob: Blob, error: Unreadable) -> None:
        """For gates, see :class:`gate.Below`. Quick: also from who answers the kernel."""
        self._verdicts.lost(blob, error)

    def condemn(self, blob: Blob, error: CacheError) -> None:
        """Bytes of ``blob`` were found wrong, by an audit for instance, and were dropped."""
        self._verdicts.condemn(blob, error)

    def submit(self, work: Callable[[], None]) -> None:
        """For gates, see :class:`gate.Below`."""
        self._crew.submit(work)


def _closed_error(read: Read) -> FetchError:
    return FetchError(f"{read.download.blob.digest}: not fetched, the fetcher is closed")
