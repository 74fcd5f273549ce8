from __future__ import annotations

import pytest

from snapshotter.registry.failures import parse_retry_after
from snapshotter.registry.ranges import wrong_length, wrong_range


def test_the_range_asked_for_is_right() -> None:
    assert wrong_range(0, 10, 100, "bytes 0-9/100", "10") is None
    assert wrong_range(90, 100, 100, "bytes 90-99/*", None) is None


@pytest.mark.parametrize(
    ("content_range", "length"),
    [
        (None, "10"),
        ("", "10"),
        ("bytes */100", "10"),
        ("items 0-9/100", "10"),
        ("bytes 0-8/100", "9"),
        ("bytes 1-10/100", "10"),
        ("bytes 0-9/99", "10"),
        ("bytes 0-9/100", "11"),
        ("bytes 0-9/100", "9"),
        ("bytes 0-9/100", "ten"),
    ],
)
def test_any_other_range_is_wrong(content_range: str | None, length: str) -> None:
    assert wrong_range(0, 10, 100, content_range, length) is not None


def test_a_missing_length_is_seen_later() -> None:
    assert wrong_length(10, None) is None
    assert wrong_length(10, " 10 ") is None
    assert wrong_length(10, "11") is not None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("999999", 3600.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds
