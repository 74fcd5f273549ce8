"""A fetcher's state to play with, without threads, network or disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from snapshotter.cache.ranges import RangeSet
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.plan import next_range
from snapshotter.fetch.records import Download, Flight, LoadedModel, Read
from snapshotter.fetch.state import State

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FOREGROUND = FetchOptions(background=False)


@dataclass
class Pieces:
    """What the decision sees of a blob."""

    size: int
    present: RangeSet = field(default_factory=RangeSet)

    @property
    def complete(self) -> bool:
        return self.present.total == self.size

    def first_gap(self, start: int, end: int) -> tuple[int, int] | None:
        return self.present.first_gap(start, end)


@dataclass(frozen=True)
class Origin:
    name: str = "registry.example/models/m@sha256:0"


class Play:
    """A state, the events that happen to it, and a clock."""

    def __init__(self, *sizes: int, options: FetchOptions = FOREGROUND) -> None:
        self.state = State(options)
        self.now = 100.0
        self.downloads = [Download(Pieces(size)) for size in sizes or (GIB,)]
        self.model = self.add_model()
        self.answered: list[Read] = []

    def add_model(self) -> LoadedModel:
        model = LoadedModel(dict.fromkeys(self.downloads, Origin()))
        self.state.add_model(model)
        return model

    def read(self, start, size=4 * KIB, *, of=0, stream="file", model=None) -> Read:
        model, download = model or self.model, self.downloads[of]
        run = self.state.note(model, download, start, start + size, stream, self.now)
        deadline = self.now + self.state.options.read_deadline
        read = Read(download, model, start, start + size, run, deadline, lambda result: None)
        if download.lacks(read):
            self.state.park(read)
        else:
            self.answered.append(read)
        return read

    def begin(self) -> Flight | None:
        chosen = next_range(self.state, self.now)
        return None if chosen is None else self.state.begin(chosen, self.now)

    def begin_all(self) -> list[tuple[int, int, int]]:
        """Every range that would be fetched now, as (blob, start, end)."""
        flights = []
        while (flight := self.begin()) is not None:
            flights.append(flight)
        return [(self.downloads.index(f.download), f.start, f.end) for f in flights]

    def land(self, flight: Flight, count: int | None = None, *, cached: bool = True) -> None:
        end = min(flight.end, flight.cursor + (count or flight.end))
        data = memoryview(bytes(end - flight.cursor))
        if cached:
            flight.download.blob.present.add(flight.cursor, end)
        self.answered += self.state.landed(flight, data, cached=cached, now=self.now)
        if flight.cursor >= flight.end:
            self.fail(flight, None)

    def fail(self, flight: Flight, error: Exception | None, delay: float = 1) -> list[Read]:
        return self.state.ended(flight, error, delay, self.now)

    def settle(self) -> int:
        """Fetch until there is nothing to do; bytes fetched."""
        before = self.model.fetched_bytes
        while (flight := self.begin()) is not None:
            self.land(flight)
        return self.model.fetched_bytes - before

    def read_forward(self, size: int, *, start: int = 0, step: int = 128 * KIB, **of) -> None:
        for offset in range(start, start + size, step):
            self.read(offset, step, **of)
            while self.state.reads:
                flight = self.begin()
                assert flight is not None
                self.land(flight)
