from __future__ import annotations

from snapshotter.throttle import Throttle


def test_one_line_of_a_kind_in_a_period_and_then_how_many_were_kept_back() -> None:
    now = 0.0
    throttle = Throttle(10, lambda: now)
    assert throttle.admit("a") == 0
    assert [throttle.admit("a") for _ in range(7)] == [None] * 7
    assert throttle.admit("b") == 0
    now = 10.0
    assert throttle.admit("a") == 7
    assert throttle.admit("a") is None


def test_kinds_without_end_are_forgotten() -> None:
    throttle = Throttle(10, lambda: 0.0)
    assert all(throttle.admit(number) == 0 for number in range(5000))
    assert len(throttle._kinds) <= 1024
