from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.bench.plots import Axis, Bar, BarGroup, Line, bars, lines, ticks

_PLAIN = Axis("x", lambda value: f"{value:g}")
_SIZES = Axis("bytes", lambda value: f"{value:g}", base=1024)
_LOG = Axis("seconds", lambda value: f"{value:g}", log=True)


def bar(label: str, value: float, **more: str) -> Bar:
    return Bar(label, value, value * 0.9, value * 1.1, f"{value:g}", **more)  # type: ignore[arg-type]


def classes(svg: str, tag: str) -> list[str]:
    return [element.get("class", "") for element in ElementTree.fromstring(svg).iter(tag)]


def test_every_bar_is_drawn_in_its_colour() -> None:
    svg = bars([BarGroup("at 0 ms", [bar("modelpack", 2), bar("curl", 1, kind="base-0")])])
    assert classes(svg, "rect") == ["ours-0", "base-0"]


def test_a_bar_twice_as_long_stands_for_twice_as_much() -> None:
    svg = bars([BarGroup("", [bar("a", 2), bar("b", 1)])])
    long, short = (float(r.get("width", "0")) for r in ElementTree.fromstring(svg).iter("rect"))
    assert long == pytest.approx(2 * short, rel=0.01)


def test_a_badge_says_whether_we_win() -> None:
    losing = Bar("curl", 1, 1, 1, "1 s", badge="0.80 x", good=False, kind="base-0")
    assert "badge bad" in classes(bars([BarGroup("", [losing])]), "rect")


def test_names_are_escaped() -> None:
    svg = bars([BarGroup("<script>", [bar("a & b", 1)])])
    assert "<script>" not in svg
    assert "a &amp; b" in svg


def test_bars_of_nothing_but_zeros_are_still_a_plot() -> None:
    assert len(classes(bars([BarGroup("", [bar("a", 0)])]), "rect")) == 1


def test_lines_have_a_legend_unless_they_have_no_name() -> None:
    points = [(0.0, 0.0), (1.0, 5.0)]
    svg = lines([Line("ours", points), Line("", points, "base-0", dashed=True)], _PLAIN, _SIZES)
    drawn = [kind for kind in classes(svg, "path") if kind.startswith("line")]
    assert drawn.count("line ours-0") == 2
    assert drawn.count("line base-0 dashed") == 1


def test_a_line_without_points_is_left_out() -> None:
    svg = lines([Line("nothing", [])], _PLAIN, _PLAIN)
    assert "nothing" not in svg


@given(
    st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e12)), min_size=1, max_size=20),
    st.sampled_from([_PLAIN, _LOG]),
)
def test_whatever_is_plotted_is_well_formed_and_finite(
    points: list[tuple[float, float]], x: Axis
) -> None:
    svg = lines([Line("a", points)], x, _SIZES, title="t")
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_ticks_are_round_numbers() -> None:
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0, 1.3, 5) == pytest.approx([0, 0.5, 1.0])


def test_ticks_of_bytes_are_powers_of_two() -> None:
    assert ticks(0, 1 << 30, 4, base=1024) == [0, 1 << 28, 2 << 28, 3 << 28, 1 << 30]


def test_ticks_of_a_logarithmic_axis_are_decades() -> None:
    assert ticks(0.0009, 1.1, 4, log=True) == pytest.approx([0.001, 0.01, 0.1, 1])


def test_a_narrow_logarithmic_axis_has_ticks_inside_a_decade() -> None:
    assert ticks(0.0021, 0.06, 4, log=True) == pytest.approx([0.005, 0.01, 0.02, 0.05])
