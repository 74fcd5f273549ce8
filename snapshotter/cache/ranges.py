"""Sets of bytes, kept as sorted, disjoint ranges.

Pure and not thread-safe: whoever shares one holds a lock around it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class RangeSet:
    """A set of integers as ranges ``[start, end)``; ranges that touch are one.

    Lookups are O(log n) in the number of ranges. A range with ``end <= start``
    is empty: contained in every set, and without effect when added or removed.
    """

    __slots__ = ("_ends", "_starts", "_total")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._total = 0
        for start, end in ranges:
            self.add(start, end)

    @property
    def total(self) -> int:
        """How many integers are in the set."""
        return self._total

    def add(self, start: int, end: int) -> None:
        if end <= start:
            return
        first, last = self._touching(start, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._replace(first, last, [(start, end)])

    def remove(self, start: int, end: int) -> None:
        if end <= start:
            return
        first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
        if first >= last:
            return
        left, right = self._starts[first], self._ends[last - 1]
        rest = [(a, b) for a, b in ((left, start), (end, right)) if a < b]
        self._replace(first, last, rest)

    def contains(self, start: int, end: int) -> bool:
        """Whether all of ``[start, end)`` is in the set."""
        return self.first_gap(start, end) is None

    def first_gap(self, start: int, end: int) -> tuple[int, int] | None:
        """The first longest range inside ``[start, end)`` of which nothing is in the set."""
        if end <= start:
            return None
        index = bisect_right(self._ends, start)
        if index < len(self._starts) and self._starts[index] <= start:
            start = self._ends[index]
            if end <= start:
                return None
            index += 1
        if index < len(self._starts):
            end = min(end, self._starts[index])
        return start, end

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """Every range inside ``[start, end)`` that is not in the set, in order."""
        gaps = []
        while (gap := self.first_gap(start, end)) is not None:
            gaps.append(gap)
            start = gap[1]
        return gaps

    def copy(self) -> RangeSet:
        twin = RangeSet()
        twin._starts, twin._ends, twin._total = self._starts[:], self._ends[:], self._total
        return twin

    def clear(self) -> None:
        self._starts, self._ends, self._total = [], [], 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __len__(self) -> int:
        """How many ranges the set consists of."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RangeSet):
            return NotImplemented
        return self._starts == other._starts and self._ends == other._ends

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"RangeSet({list(self)!r})"

    def _touching(self, start: int, end: int) -> tuple[int, int]:
        """Indexes ``[first, last)`` of the ranges that overlap or touch ``[start, end)``."""
        return bisect_left(self._ends, start), bisect_right(self._starts, end)

    def _replace(self, first: int, last: int, ranges: list[tuple[int, int]]) -> None:
        for a, b in zip(self._starts[first:last], self._ends[first:last], strict=True):
            self._total -= b - a
        self._starts[first:last] = [a for a, _ in ranges]
        self._ends[first:last] = [b for _, b in ranges]
        self._total += sum(b - a for a, b in ranges)
