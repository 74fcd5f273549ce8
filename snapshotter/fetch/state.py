"""What the fetcher knows at one moment, and how events change it.

Every byte of a blob is there, or in flight, or neither: a range is begun only where
both are not, which makes one fetch per byte whatever the number of readers and
models. No I/O, no threads, no clock: the caller holds a lock and passes the time.
Of a blob only ``size``, ``complete`` and ``first_gap`` are looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

from snapshotter.cache.ranges import RangeSet
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.pace import Pace
from snapshotter.fetch.records import Download, Fate, Flight, LoadedModel, Range, Read
from snapshotter.fetch.streams import Run, follow, is_sequential
from snapshotter.registry.errors import Busy, LeftAlone

MAX_STREAMS = 1024
"""Streams remembered for one blob."""
MAX_PACES = 256
"""Registries whose best number of connections is remembered."""
MAX_AHEAD = 64
"""Sequential runs that are read ahead of at one time."""
LULL = 0.25
"""Seconds after its latest read in which a sequential reader is expected to go on."""


@dataclass(slots=True, eq=False)
class State:
    """Everything there is to know for choosing the next range."""

    options: FetchOptions
    models: dict[LoadedModel, None] = field(default_factory=dict)
    reads: dict[Read, None] = field(default_factory=dict)
    """In order of arrival, which is also the order of their deadlines."""
    flights: dict[Flight, None] = field(default_factory=dict)
    ahead: dict[Run, tuple[LoadedModel, Download]] = field(default_factory=dict)
    """Sequential runs, the most recently read last."""
    backing_off: dict[Download, None] = field(default_factory=dict)
    uncached_until: float = 0
    """The cache took no bytes lately: until then fetch only what somebody waits for."""
    full: bool = False
    """There is no room for what nobody waits for: no model is completed until there is."""
    paces: dict[str, Pace] = field(default_factory=dict)
    """How many large ranges at once, by registry."""
    cpu_short: bool = False
    """The node has less CPU time than is wanted."""
    background_paid: float = 0
    """Time until which the rate of background completion has been used up."""

    # Connections

    def room(self, model: LoadedModel, download: Download) -> bool:
        """Whether one more large range may be fetched for ``model``, and from there."""
        streaming = [flight for flight in self.flights if flight.streaming]
        if len(streaming) >= self._most:
            return False
        registry = model.registry_of(download)
        here = sum(flight.registry == registry for flight in streaming)
        return here < self.pace(registry).limit

    @property
    def spare(self) -> bool:
        """Whether one more large range may be fetched for a reader who waits.

        However many make it faster: he gets a request in any case, and a small one costs as much.
        """
        return sum(flight.streaming for flight in self.flights) < self._most

    def pace(self, registry: str) -> Pace:
        pace = self.paces.get(registry)
        if pace is None:
            pace = self.paces[registry] = Pace(self._most)
            if len(self.paces) > MAX_PACES:
                del self.paces[next(iter(self.paces))]
        return pace

    @property
    def _most(self) -> int:
        return self.options.connections - self.options.reserved

    def busy(self, now: float) -> bool:
        """Whether something is fetched, or waited for, or somebody reads forward."""
        return bool(self.flights or self.reads) or any(now < run.last + LULL for run in self.ahead)

    # Models

    def add_model(self, model: LoadedModel) -> None:
        self.models[model] = None
        for download in model.origins:
            download.models += 1

    def remove_model(self, model: LoadedModel) -> None:
        """Forget ``model``; flights nobody else has a use for end where they are."""
        if model not in self.models:
            return
        del self.models[model]
        for run in [run for run, (owner, _) in self.ahead.items() if owner is model]:
            del self.ahead[run]
        for download in model.origins:
            for key in [key for key in download.streams if key[0] is model]:
                del download.streams[key]
            download.models -= 1
            if download.models == 0:
                for flight in download.flights:
                    wanted = (read.end for read in download.reads if read.start < flight.end)
                    self.cut(flight, max([flight.asked, *wanted]))

    def models_with(self, download: Download) -> list[LoadedModel]:
        return [model for model in self.models if download in model.origins]

    def forget(self, download: Download) -> None:
        """Bytes of it were evicted: nobody but a reader brings them back."""
        for model in self.models:
            model.remaining.pop(download, None)

    def begin_again(self, download: Download) -> None:
        """A blob that came wrong may be fetched anew."""
        download.bad = None
        download.failures = 0
        self.complete_again(download)

    def complete_again(self, download: Download) -> None:
        """What was there of it is lost, and may come again before somebody reads it."""
        for model in self.models_with(download):
            model.remaining[download] = None

    # Reads

    def note(
        self,
        model: LoadedModel,
        download: Download,
        start: int,
        end: int,
        stream: Hashable,
        now: float,
    ) -> Run:
        """A read of ``[start, end)`` arrived: what does it say about the reads to come?"""
        key = (model, stream)
        runs = download.streams.pop(key, None) or []
        download.streams[key] = runs  # now the most recently used
        if len(download.streams) > MAX_STREAMS:
            del download.streams[next(iter(download.streams))]
        run = follow(runs, start, end)
        run.last = now
        options = self.options
        if options.background:
            model.background_at = min(model.background_at, now + options.background_delay)
        if is_sequential(run, options.sequential_after):
            self.ahead.pop(run, None)
            self.ahead[run] = (model, download)
            if len(self.ahead) > MAX_AHEAD:
                del self.ahead[next(iter(self.ahead))]
            if run.credit >= options.background_after:
                if options.background:
                    model.background_at = min(model.background_at, now)
                model.focus, model.focus_offset = download, run.head
        return run

    def park(self, read: Read) -> None:
        self.reads[read] = read.download.reads[read] = None
        for flight in read.download.flights:
            if flight.cursor < read.end and read.start < flight.end:
                flight.due = min(flight.due, read.end)
        read.pending = not self._covered(read)

    def drop(self, read: Read) -> Read:
        """Take out ``read``, which is about to be answered."""
        del self.reads[read], read.download.reads[read]
        return read

    def expire(self, now: float) -> list[Read]:
        """Take out the reads that have waited long enough."""
        expired = []
        for read in self.reads:
            if read.deadline > now:
                break
            expired.append(read)
            read.download.exhausted = True
        return [self.drop(read) for read in expired]

    # Flights

    def begin(self, chosen: Range, now: float) -> Flight:
        if chosen.cut is not None:
            self.cut(chosen.cut, chosen.start)
        download, start, end = chosen.download, chosen.start, chosen.end
        if chosen.background and self.options.background_rate:
            begin = max(self.background_paid, now)
            self.background_paid = begin + (end - start) / self.options.background_rate
        flight = Flight(
            download, chosen.model, start, end, chosen.streaming, now, start, start, due=end
        )
        self.flights[flight] = None
        download.flights.append(flight)
        download.in_flight.add(start, end)
        self._set_due(flight)
        for read in download.reads:
            if read.pending and read.start < end and start < read.end:
                read.pending = not self._covered(read)
        return flight

    def cut(self, flight: Flight, at: int) -> None:
        """Let ``flight`` end at ``at``; what lies behind may be fetched by another."""
        if at < flight.end:
            download, end = flight.download, flight.end
            download.in_flight.remove(at, end)
            flight.end = at
            for read in download.reads:
                read.pending = read.pending or (read.start < end and at < read.end)

    def asking(self, flight: Flight, position: int, end: int) -> int:
        """Bytes from ``position`` are about to be received: up to where, at most ``end``."""
        flight.asked = max(position, min(end, flight.end))
        return flight.asked

    def fate(self, flight: Flight, end: int, now: float) -> Fate:
        """What becomes of the bytes from the cursor to ``end``, which have arrived.

        A gate reads again what came, to hash it, or to give it out later.
        """
        download, start = flight.download, flight.cursor
        if download.gate is not None:
            return Fate.STAYS
        awaited = RangeSet(
            (read.start, read.end)
            for read in download.reads
            if start <= read.start and read.end <= end
        )
        if awaited.contains(start, end):
            return Fate.PASSES
        soon = any(
            where is download
            and start <= run.head + self.options.memory
            and run.head <= end
            and now < run.last + LULL
            for run, (_, where) in self.ahead.items()
        )
        return Fate.SOON if soon else Fate.STAYS

    def landed(self, flight: Flight, data: memoryview, *, cached: bool, now: float) -> list[Read]:
        """``data`` arrived at the cursor; take out the reads that can be answered now.

        What the cache did not take is copied to the reads that wait for it.
        """
        download, start, end = flight.download, flight.cursor, flight.cursor + len(data)
        flight.cursor = end
        flight.model.fetched_bytes += len(data)
        pace = self.pace(flight.registry)
        if start == flight.start:
            pace.began(now - flight.began)
        if flight.streaming:
            pace.landed(len(data), now, full=not self.room(flight.model, download))
        download.in_flight.remove(start, min(end, flight.end))
        if end >= flight.end or end - flight.start >= self.options.grain:
            download.failures = 0
            download.exhausted = False
            self.backing_off.pop(download, None)
            download.demand_at = download.stream_at = 0
        ready = []
        for read in list(download.reads):
            if read.end <= start or end <= read.start:
                continue
            if not cached:
                _absorb(read, start, data)
            if not download.lacks(read):
                ready.append(self.drop(read))
            else:
                read.pending = not self._covered(read)
        if not cached:
            # What nobody waits for need not come only to be thrown away.
            wanted = (read.end for read in download.reads if read.start < flight.end)
            self.cut(flight, max(end, flight.asked, *wanted))
        self._set_due(flight)
        if download.blob.complete:
            for model in self.models:
                model.remaining.pop(download, None)
        return ready

    def ended(
        self, flight: Flight, error: Exception | None, delay: float, now: float
    ) -> list[Read]:
        """``flight`` is over; take out the reads that fail with it.

        ``delay`` is the pause before the next attempt, in seconds.
        """
        download, rest = flight.download, (flight.cursor, flight.end)
        del self.flights[flight]
        download.flights.remove(flight)
        download.in_flight.remove(*rest)
        touched = [read for read in download.reads if read.start < rest[1] and rest[0] < read.end]
        failed = []
        if isinstance(error, Busy):  # nobody's failure: the host is at the limits configured
            download.stream_at = max(download.stream_at, now + delay)
            download.demand_at = max(download.demand_at, now + delay)
            self.backing_off[download] = None
        elif error is not None:
            download.failures += 1
            download.last_error = error
            download.stream_at = max(download.stream_at, now + delay)
            self.backing_off[download] = None
            if getattr(error, "temporary", False):
                download.demand_at = max(download.demand_at, now + delay)
            if not getattr(error, "temporary", False):
                # Another model may reach the same blob where this one may not.
                failed = [self.drop(read) for read in touched if read.model is flight.model]
            elif download.exhausted:
                failed = self._in_vain(flight, error, now)
            touched = [read for read in touched if read not in failed]
        elif flight.streaming:
            self.pace(flight.registry).ended(flight.cursor - flight.start, now - flight.began)
        for read in touched:
            read.pending = True
        return failed

    def _in_vain(self, flight: Flight, error: Exception, now: float) -> list[Read]:
        """Take out the reads for which, after others waited too long, one attempt is enough.

        The kernel lets readers of one page through one after the other, each with a read
        of its own: a whole deadline for each of them would have no end. An attempt
        that somebody else made at the host counts as well.
        """
        tried_at = error.failed_at if isinstance(error, LeftAlone) else now
        waited = self.options.read_deadline
        return [
            self.drop(read)
            for read in list(flight.download.reads)
            if read.model is flight.model and read.deadline - waited <= tried_at
        ]

    def next_event(self, now: float) -> float:
        """Seconds until time alone may change what to do; infinite when it never will."""
        times = [model.background_at for model in self.models]
        times += [self.uncached_until, self.background_paid]
        times += [run.last + LULL for run in self.ahead]
        for download in self.backing_off:
            times += [download.demand_at, download.stream_at]
        times += [read.deadline for read in list(self.reads)[:1]]
        return min((at - now for at in times if at > now), default=math.inf)

    def _covered(self, read: Read) -> bool:
        """Whether every byte of ``read`` that lacks is on its way, and soon there."""
        download = read.download
        if download.unclaimed(read.start, read.end, read.received) is not None:
            return False
        # In the middle of a large flight it may be worth a range of its own later.
        return is_sequential(read.run, self.options.sequential_after) or not any(
            flight.cursor + self.options.grain < read.start < flight.end
            for flight in download.flights
        )

    def _set_due(self, flight: Flight) -> None:
        flight.due = min(
            (
                read.end
                for read in flight.download.reads
                if flight.cursor < read.end and read.start < flight.end
            ),
            default=flight.end,
        )


def _absorb(read: Read, start: int, data: memoryview) -> None:
    if not read.buffer:
        read.buffer = bytearray(read.end - read.start)
    first, last = max(start, read.start), min(start + len(data), read.end)
    read.buffer[first - read.start : last - read.start] = data[first - start : last - start]
    read.received.add(first, last)
