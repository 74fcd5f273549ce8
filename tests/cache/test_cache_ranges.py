"""RangeSet against the obvious model: a set of integers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from snapshotter.cache.ranges import RangeSet

SPACE = 40
edges = st.tuples(st.integers(0, SPACE), st.integers(0, SPACE))
changes = st.lists(st.tuples(st.booleans(), edges), max_size=30)


def built(steps: list[tuple[bool, tuple[int, int]]]) -> tuple[RangeSet, set[int]]:
    ranges, naive = RangeSet(), set()
    for adding, (start, end) in steps:
        if adding:
            ranges.add(start, end)
            naive |= set(range(start, end))
        else:
            ranges.remove(start, end)
            naive -= set(range(start, end))
    return ranges, naive


@given(changes)
def test_holds_what_was_added_and_not_removed(steps) -> None:
    ranges, naive = built(steps)
    assert {n for start, end in ranges for n in range(start, end)} == naive
    assert ranges.total == len(naive)


@given(changes)
def test_ranges_are_sorted_apart_and_never_empty(steps) -> None:
    ranges, _ = built(steps)
    flat = [edge for pair in ranges for edge in pair]
    assert flat == sorted(set(flat))
    assert len(ranges) == len(flat) // 2


@given(changes, edges)
def test_missing_is_what_the_set_lacks(steps, probe) -> None:
    ranges, naive = built(steps)
    lacking = set(range(*probe)) - naive
    gaps = ranges.missing(*probe)
    assert {n for start, end in gaps for n in range(start, end)} == lacking
    assert ranges.contains(*probe) == (not lacking)
    assert ranges.first_gap(*probe) == (gaps[0] if gaps else None)


@given(changes, edges)
def test_a_copy_goes_its_own_way(steps, probe) -> None:
    ranges, _ = built(steps)
    twin = ranges.copy()
    assert twin == ranges
    twin.add(*probe)
    twin.remove(0, SPACE)
    assert ranges == built(steps)[0]


def test_ranges_that_touch_become_one() -> None:
    ranges = RangeSet([(0, 4), (8, 12), (4, 8)])
    assert list(ranges) == [(0, 12)]
    assert repr(ranges) == "RangeSet([(0, 12)])"


def test_clearing_leaves_nothing() -> None:
    ranges = RangeSet([(0, 4)])
    ranges.clear()
    assert ranges == RangeSet()
    assert ranges.total == 0
