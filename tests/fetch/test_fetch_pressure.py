"""Whether CPU time is short: the kernel's own account of who waited for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshotter.fetch.pressure import INTERVAL, CpuPressure, stalled_microseconds

LINES = "some avg10=88.01 avg60=89.01 avg300=83.67 total={}\nfull avg10=0.00 total=0\n"


def test_the_total_is_read_from_the_line_of_some() -> None:
    assert stalled_microseconds(LINES.format(1798909377)) == 1798909377


@pytest.mark.parametrize("text", ["", "full total=3\n", "some avg10=1.0\n", "some total=x\n"])
def test_what_is_no_pressure_file_is_an_error(text) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        stalled_microseconds(text)


def test_it_is_short_when_somebody_waited_for_most_of_the_time(tmp_path: Path) -> None:
    source = tmp_path / "cpu"
    source.write_text(LINES.format(0))
    pressure = CpuPressure(source)
    assert not pressure.short(10.0)
    source.write_text(LINES.format(900_000))
    assert not pressure.short(10.0 + INTERVAL / 2)  # not looked at again so soon
    assert pressure.short(11.0)
    source.write_text(LINES.format(1_000_000))
    assert not pressure.short(12.0)


def test_a_kernel_that_does_not_tell_has_plenty(tmp_path: Path) -> None:
    pressure = CpuPressure(tmp_path / "none")
    assert not pressure.short(1.0)
    assert not pressure.short(2.0)
