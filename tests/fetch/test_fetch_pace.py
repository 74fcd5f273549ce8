"""How many ranges at once, tried out on networks that are formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from snapshotter.fetch.pace import FIRST, FIRST_FAR, LASTS, Pace

MB = 1_000_000
STEP = 0.05


def fetch(pace: Pace, rate: Callable[[int], float], seconds: float, now: float = 0.0) -> float:
    """Fetch as fast as ``rate`` allows with that many connections; the time afterwards."""
    end = now + seconds
    while now < end:
        now += STEP
        pace.landed(int(rate(pace.limit) * STEP), now, full=True)
    return now


def test_each_connection_has_its_share_so_all_of_them_are_used() -> None:
    pace = Pace(most=14)
    fetch(pace, lambda n: n * 20 * MB, 10)
    assert pace.limit >= 13  # one more would gain too little to be told from noise


def test_a_link_that_few_connections_fill_stays_with_few() -> None:
    pace = Pace(most=14)
    fetch(pace, lambda n: 1000 * MB - n * 10 * MB, 5)
    assert pace.limit == FIRST


def test_growing_ends_where_throughput_does() -> None:
    pace = Pace(most=30)
    fetch(pace, lambda n: min(n, 9) * 30 * MB, 9)
    assert pace.limit == 9


def test_a_failed_trial_is_not_repeated_at_once_but_later() -> None:
    pace = Pace(most=14)
    now = fetch(pace, lambda n: 500 * MB, 5)
    assert pace.limit == FIRST
    fetch(pace, lambda n: n * 50 * MB, 60, now)
    assert pace.limit >= 13  # one more would gain too little to be told from noise


def test_nothing_is_concluded_while_there_is_less_to_fetch_than_allowed() -> None:
    pace = Pace(most=14)
    now = 0.0
    for _ in range(1000):
        now += STEP
        pace.landed(10 * MB, now, full=False)
    assert pace.limit == FIRST


def test_the_number_never_exceeds_what_is_configured() -> None:
    pace = Pace(most=3)
    assert pace.limit == 3
    fetch(pace, lambda n: n * 100 * MB, 10)
    assert pace.limit == 3


def test_a_registry_far_away_is_begun_with_more() -> None:
    near, far = Pace(most=14), Pace(most=14)
    near.began(0.002)
    far.began(0.1)
    assert (near.limit, far.limit) == (FIRST, FIRST_FAR)


def test_what_was_found_by_trying_counts_more_than_a_slow_answer() -> None:
    pace = Pace(most=14)
    fetch(pace, lambda n: 500 * MB, 5)
    pace.began(0.1)
    assert pace.limit == FIRST


def test_a_wait_on_a_busy_node_does_not_make_a_registry_far_away() -> None:
    pace = Pace(most=14)
    pace.began(0.002)
    pace.began(0.2)
    assert pace.limit == FIRST


def test_a_range_is_judged_by_what_its_connection_brings_in_a_moment() -> None:
    pace = Pace(most=14)
    pace.ended(1000, 0.001)
    assert pace.quick == 0  # too small to tell
    pace.ended(100 * MB, 1.0)
    assert pace.quick == 100 * MB * LASTS
    for _ in range(20):
        pace.ended(16 * MB, 0.08)
    assert pace.quick == pytest.approx(200 * MB * LASTS, rel=0.01)
