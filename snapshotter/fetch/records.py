"""What a fetch consists of: reads that wait, flights that bring ranges, blobs and models.

Plain records; how they change is in state.py.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from snapshotter.cache.blob import Blob
from snapshotter.cache.ranges import RangeSet
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.gate import Gate
from snapshotter.fetch.streams import Run
from snapshotter.registry.blobs import BlobOrigin, RangeBody

ReadResult: TypeAlias = Sequence[memoryview] | FetchError
"""The bytes of a read, in order, valid only during the call that hands them over; or why not."""


class Fate(enum.Enum):
    """What becomes of bytes that have arrived."""

    STAYS = "stays"
    """Nobody is known to read them in a moment: they belong into the cache, and in its memory."""
    SOON = "soon"
    """Who reads forward is about to come to them."""
    PASSES = "passes"
    """Readers wait for all of them, and keep what they get."""


@dataclass(slots=True, eq=False)
class Read:
    """A read that waits for bytes of ``[start, end)``."""

    download: Download
    model: LoadedModel
    start: int
    end: int
    run: Run
    deadline: float
    deliver: Callable[[ReadResult], None]
    pending: bool = True
    """May still want a range of its own: not all of it is on the way."""
    received: RangeSet = field(default_factory=RangeSet)
    """What of it is in ``buffer``: only used while the cache takes no bytes."""
    buffer: bytearray = field(default_factory=bytearray)


@dataclass(slots=True, eq=False)
class Flight:
    """A range on its way: ``[start, cursor)`` has landed, ``[cursor, end)`` has not."""

    download: Download
    model: LoadedModel
    start: int
    end: int
    """Another thread may lower it: what lies behind is no longer this flight's to bring."""
    streaming: bool
    began: float
    cursor: int
    asked: int
    """Where what is being received ends: it cannot be cut off any earlier."""
    due: int
    """Where the first read that waits for these bytes ends: land no later than there."""
    body: RangeBody | None = None

    @property
    def registry(self) -> str:
        return self.model.registry_of(self.download)

    def wait_for(self, offset: int, now: float) -> float:
        """Seconds until ``offset`` lands if it goes on as so far; 0 while nobody can tell."""
        done = self.cursor - self.start
        return (offset - self.cursor) * (now - self.began) / done if done else 0.0


@dataclass(slots=True, eq=False, weakref_slot=True)
class Download:
    """One blob on its way into the cache, for all models that have it."""

    blob: Blob
    flights: list[Flight] = field(default_factory=list)
    in_flight: RangeSet = field(default_factory=RangeSet)
    reads: dict[Read, None] = field(default_factory=dict)
    streams: dict[tuple[LoadedModel, Hashable], list[Run]] = field(default_factory=dict)
    models: int = 0
    failures: int = 0
    """Requests failed in a row."""
    last_error: Exception | None = None
    exhausted: bool = False
    """A read has waited for its whole deadline, and nothing came since."""
    demand_at: float = 0
    """Time before which nothing is asked for, after a temporary failure."""
    stream_at: float = 0
    """Time before which nothing is asked for that nobody waits for, after any failure."""
    bad: str | None = None
    """Why nothing of it is served for now."""
    bad_until: float = 0
    """When it is asked for again, seconds since the epoch."""
    gate: Gate | None = None
    """What lets out only bytes that are known to be right; None where all may go."""
    pieces: Sequence[int] = ()
    """Where tensors begin and end in it, sorted."""

    @property
    def why_bad(self) -> str | None:
        """Why nothing of it is served; also in the moment before we are told."""
        if self.bad is None and self.blob.bad:
            return f"{self.blob.digest}: wrong bytes came, none is served any more"
        return self.bad

    def unclaimed(self, start: int, end: int, *more: RangeSet) -> tuple[int, int] | None:
        """The first range of ``[start, end)`` neither there, nor in flight, nor in ``more``."""
        return first_common_gap(start, end, self.blob, self.in_flight, *more)

    def lacks(self, read: Read) -> bool:
        """Whether ``read`` cannot be answered yet."""
        return first_common_gap(read.start, read.end, self.blob, read.received) is not None


class _Cover(Protocol):
    def first_gap(self, start: int, end: int) -> tuple[int, int] | None: ...


def first_common_gap(start: int, end: int, *covers: _Cover) -> tuple[int, int] | None:
    """The first range of ``[start, end)`` that none of ``covers`` covers."""
    while start < end:
        gap = (start, end)
        for cover in covers:
            inner = cover.first_gap(*gap)
            if inner is None:
                break
            gap = inner
        else:
            return gap
        start = gap[1]
    return None


@dataclass(slots=True, eq=False)
class LoadedModel:
    """A model that may be read. Get one from :meth:`Fetcher.add_model`."""

    origins: Mapping[Download, BlobOrigin]
    """Its blobs, in the order of background completion."""
    unwanted: Mapping[Download, RangeSet] = field(default_factory=dict)
    """Parts of blobs that nobody will read through this model: not fetched ahead of reads."""
    background_at: float = math.inf
    focus: Download | None = None
    """The blob being read forward: completion begins there, and with it at ``focus_offset``."""
    focus_offset: int = 0
    prefetch: deque[tuple[Download, int, int]] = field(default_factory=deque)
    """Ranges to fetch once no reader waits, in this order."""
    fetched_bytes: int = 0
    """Bytes fetched for reads of this model and for completing it."""
    places: dict[Download, int] = field(init=False)
    remaining: dict[Download, None] = field(init=False)
    """Its blobs that are not complete."""

    def __post_init__(self) -> None:
        self.arrange(list(self.origins))

    def arrange(self, order: Sequence[Download]) -> None:
        """Complete the blobs in ``order``, which has each of them once."""
        self.places = {download: place for place, download in enumerate(order)}
        self.remaining = {d: None for d in order if not d.blob.complete}

    def to_complete(self) -> list[Download]:
        """What remains: from the blob in focus to the last, then those before."""
        first = self.places[self.focus] if self.focus is not None else 0
        later = [download for download in self.remaining if self.places[download] >= first]
        return later + [download for download in self.remaining if self.places[download] < first]

    def free(
        self, download: Download, start: int, end: int, *more: RangeSet
    ) -> tuple[int, int] | None:
        """As :meth:`Download.unclaimed`, without what is not wanted."""
        unwanted = self.unwanted.get(download)
        covers = more if unwanted is None else (unwanted, *more)
        return download.unclaimed(start, end, *covers)

    def name_of(self, blob: Blob) -> str:
        """Where this model has ``blob`` from, for messages."""
        return next(origin.name for d, origin in self.origins.items() if d.blob is blob)

    def registry_of(self, download: Download) -> str:
        """Where ``download`` comes from for this model, as ``HOST[:PORT]``."""
        return self.origins[download].name.partition("/")[0]

    @property
    def complete(self) -> bool:
        """Nothing of it needs a registry any more."""
        return all(
            download.blob.complete
            or (
                (unwanted := self.unwanted.get(download)) is not None
                and first_common_gap(0, download.blob.size, download.blob, unwanted) is None
            )
            for download in self.origins
        )

    @property
    def total_bytes(self) -> int:
        """Bytes of its blobs that are wanted."""
        return sum(self._wanted(download) for download in self.origins)

    def present_of(self, blob: Blob) -> int:
        """Bytes of ``blob`` that are wanted and in the cache, whoever fetched them."""
        for download, unwanted in self.unwanted.items():
            if download.blob is blob:
                missing = RangeSet(unwanted)
                for start, end in blob.missing(0, blob.size):
                    missing.add(start, end)
                return blob.size - missing.total
        return blob.present_bytes

    def _wanted(self, download: Download) -> int:
        unwanted = self.unwanted.get(download)
        return download.blob.size - (unwanted.total if unwanted is not None else 0)


@dataclass(frozen=True, slots=True)
class Range:
    """Bytes ``[start, end)`` to fetch, for ``model``."""

    model: LoadedModel
    download: Download
    start: int
    end: int
    streaming: bool
    """More than a reader waits for; the reserved connections take none of these."""
    cut: Flight | None = None
    """A flight that would take long to come this far, and is to end where this range begins."""
    background: bool = False
    """Nobody reads there: it counts against the rate of background completion."""
