from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.bench.statistics import (
    Summary,
    median,
    middle_index,
    percentile,
    quantiles,
    ratio,
    summarize,
    thin,
    times_better,
)

numbers = st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30)


def test_the_median_of_an_odd_number_is_the_middle_one() -> None:
    assert median([3, 1, 2]) == 2


def test_the_median_of_an_even_number_lies_between_the_middle_two() -> None:
    assert median([4, 1, 2, 3]) == 2.5


@given(numbers)
def test_a_summary_holds_lowest_and_highest_and_a_median_between_them(values: list[float]) -> None:
    found = summarize(values)
    assert found.low <= found.median <= found.high
    assert found.count == len(values)


def test_a_spread_is_relative_to_the_median() -> None:
    assert Summary(10, 9, 12, 3).spread == pytest.approx(0.3)
    assert Summary(0, 0, 0, 3).spread == 0


@given(numbers)
def test_the_run_that_stands_for_all_is_a_median_one(values: list[float]) -> None:
    chosen = values[middle_index(values)]
    assert sum(value < chosen for value in values) <= len(values) / 2
    assert sum(value > chosen for value in values) <= len(values) / 2


def test_percentiles_are_interpolated() -> None:
    assert percentile([0, 10], 0.25) == 2.5
    assert percentile([7], 0.99) == 7


def test_quantiles_begin_with_the_least_and_end_with_the_greatest() -> None:
    found = quantiles([5, 1, 3])
    assert (len(found), found[0], found[50], found[100]) == (101, 1, 3, 5)
    assert quantiles([]) == []


def test_half_the_time_is_twice_as_good() -> None:
    assert times_better(1.0, 2.0, more_is_better=False) == 2.0


def test_half_the_throughput_is_half_as_good() -> None:
    assert times_better(1.0, 2.0, more_is_better=True) == 0.5


def test_nothing_against_nothing_is_no_number() -> None:
    assert math.isnan(times_better(0, 0, more_is_better=True))
    assert math.isinf(times_better(1, 0, more_is_better=True))


def test_a_ratio_is_that_of_medians_and_ranges_over_the_pairs_that_ran_together() -> None:
    found = ratio([2, 4, 6], [4, 4, 4], more_is_better=True)
    assert (found.median, found.low, found.high) == (1.0, 0.5, 1.5)


def test_thinning_keeps_both_ends() -> None:
    points = [(float(n), float(n)) for n in range(1000)]
    found = thin(points, 10)
    assert len(found) == 10
    assert (found[0], found[-1]) == (points[0], points[-1])
    assert thin(points[:5], 10) == points[:5]
