from __future__ import annotations

import pytest

from snapshotter.units import ByteSize, Seconds, UnitError, format_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        (4096, 4096),
        ("8MiB", 8 << 20),
        ("1.5 GiB", 3 << 29),
        ("10GB", 10**10),
        ("1g", 1 << 30),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str | int, size: int) -> None:
    assert ByteSize.parse(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("250ms", 0.25), ("30s", 30), ("5m", 300), ("24h", 86400), (2, 2)]
)
def test_durations_are_read_as_people_write_them(text: str | int, seconds: float) -> None:
    assert Seconds.parse(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "8 miles", "MiB", "1e3", "0x10", "٣.5 MiB MiB"])
def test_what_is_no_size_is_an_error_that_shows_it(text: str) -> None:
    with pytest.raises(UnitError, match="is no size"):
        ByteSize.parse(text)


def test_what_is_no_duration_is_an_error_that_shows_it() -> None:
    with pytest.raises(UnitError, match="unknown unit 'fortnights'"):
        Seconds.parse("2 fortnights")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes_are_shown_in_the_unit_that_suits_them(size: int, text: str) -> None:
    assert format_size(size) == text
