"""Plots as SVG elements, for putting into an HTML page. Pure: numbers in, text out.

Colours are classes (``ours-0``, ``base-1``, ...), so that the page's style decides them, for
light and dark. Lengths are pixels of a view box; the page scales it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_BAR, _STEP, _HEAD, _GAP = 14, 23, 25, 12
_LABEL, _RIGHT = 218, 190
_PLOT = 470, 252
_NOTHING = 1e-12
"""Below this there is nothing to be seen, and no room for ticks between floats."""
_CHARACTER = 6.3
"""Width of one character of the small type, about."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One value and its range."""

    label: str
    value: float
    low: float
    high: float
    text: str
    """The value for people."""
    badge: str = ""
    """A ratio beside it."""
    good: bool = True
    kind: str = "ours-0"


@dataclass(frozen=True, slots=True)
class BarGroup:
    """Bars that are compared."""

    title: str
    bars: Sequence[Bar]


def bars(groups: Sequence[BarGroup], *, width: int = 960) -> str:
    """Horizontal bars from a common zero, with whiskers from the lowest to the highest run."""
    top = max((bar.high for group in groups for bar in group.bars), default=0.0)
    room = width - _LABEL - _RIGHT
    scale = room / top if top > 0 and math.isfinite(top) else 0.0
    parts: list[str] = []
    y = 0.0
    for number, group in enumerate(groups):
        if group.title:
            y += _GAP if number else 0
            parts.append(_text(0, y + 15, group.title, "group"))
            y += _HEAD
        for bar in group.bars:
            parts.append(_bar(bar, y, scale, width))
            y += _STEP
    title = "; ".join(group.title for group in groups)
    return _svg(width, y + 4, "bars", f"Bars: {title}", parts)


def _bar(bar: Bar, y: float, scale: float, width: int) -> str:
    middle = y + _STEP / 2
    length = max(1.5, bar.value * scale)
    label = _cut(bar.label, _LABEL - 14)
    parts = [
        f"<title>{escape(bar.label)}: {escape(bar.text)}</title>",
        _text(_LABEL - 10, middle + 4, label, "label", anchor="end"),
        f'<rect class="{bar.kind}" x="{_LABEL}" y="{middle - _BAR / 2:.1f}" '
        f'width="{length:.1f}" height="{_BAR}" rx="3"/>',
    ]
    if (bar.high - bar.low) * scale > 2:
        low, high = _LABEL + bar.low * scale, _LABEL + bar.high * scale
        parts.append(
            f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}'
            f'M{low:.1f} {middle - 3.5:.1f}v7M{high:.1f} {middle - 3.5:.1f}v7"/>'
        )
    end = _LABEL + max(length, bar.high * scale) + 9
    parts.append(_text(end, middle + 4, bar.text, "value"))
    if bar.badge:
        badge = end + len(bar.text) * (_CHARACTER + 0.6) + 10
        wide = len(bar.badge) * _CHARACTER + 14
        badge = min(badge, width - wide)
        parts.append(
            f'<rect class="badge {"good" if bar.good else "bad"}" x="{badge:.1f}" '
            f'y="{middle - 8.5:.1f}" width="{wide:.1f}" height="17" rx="8.5"/>'
        )
        parts.append(_text(badge + wide / 2, middle + 4, bar.badge, "badge", anchor="middle"))
    return f"<g>{''.join(parts)}</g>"


@dataclass(frozen=True, slots=True)
class Line:
    """One series of (x, y)."""

    label: str
    points: Sequence[tuple[float, float]]
    kind: str = "ours-0"
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """How an axis is marked."""

    title: str
    text: Callable[[float], str]
    base: int = 10
    """1024 for bytes: ticks at round binary numbers."""
    log: bool = False
    most: float | None = None
    """Its end; None: whatever the lines need."""


def lines(series: Sequence[Line], x: Axis, y: Axis, *, title: str = "") -> str:
    """A line chart with a legend; lines without points are left out."""
    width, height = _PLOT
    shown = [line for line in series if line.points]
    left, right, bottom = 58, 14, 34
    legend, legend_height = _legend(shown, width - left - right)
    head = (24 if title else 6) + legend_height
    low_x, high_x = _range([p[0] for line in shown for p in line.points], x)
    low_y, high_y = _range([p[1] for line in shown for p in line.points], y)
    place_x = _scale(low_x, high_x, left, width - right, log=x.log)
    place_y = _scale(low_y, high_y, height - bottom, head + 6, log=y.log)
    parts: list[str] = []
    if title:
        parts.append(_text(0, 15, title, "group"))
    parts.append(f'<g transform="translate({left} {24 if title else 6})">{legend}</g>')
    for value in ticks(low_y, high_y, 4, base=y.base, log=y.log):
        at = place_y(value)
        parts.append(f'<path class="grid" d="M{left} {at:.1f}H{width - right}"/>')
        parts.append(_text(left - 7, at + 4, y.text(value), "tick", anchor="end"))
    for value in ticks(low_x, high_x, 5, base=x.base, log=x.log):
        at = place_x(value)
        parts.append(f'<path class="grid" d="M{at:.1f} {head + 6}V{height - bottom}"/>')
        parts.append(_text(at, height - bottom + 15, x.text(value), "tick", anchor="middle"))
    parts.append(_text(width - right, height - 3, x.title, "tick", anchor="end"))
    parts += [_line(line, place_x, place_y) for line in shown]
    return _svg(width, height, "lines", f"{title}: {y.title} over {x.title}", parts)


def ticks(low: float, high: float, about: int, *, base: int = 10, log: bool = False) -> list[float]:
    """Round numbers between ``low`` and ``high``, around ``about`` of them."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return []
    if log:
        first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
        decades = [10.0**power for power in range(first, last + 1)]
        if len(decades) >= 3:
            return decades
        steps = [m * 10.0**p for p in range(first - 1, last + 1) for m in (1, 2, 5)]
        return [value for value in steps if low <= value <= high]
    rough = (high - low) / about
    if base == 1024:
        step = 2.0 ** math.ceil(math.log2(rough))
    else:
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + number) * step for number in range(count)]


def _range(values: Sequence[float], axis: Axis) -> tuple[float, float]:
    if axis.log:
        positive = [value for value in values if value > _NOTHING]
        if not positive:
            return 1.0, 10.0
        low, high = min(positive), max(positive)
        return low / 1.15, max(high, low * 2) * 1.15
    high = axis.most if axis.most is not None else max(values, default=0.0)
    return 0.0, high if high > _NOTHING else 1.0


def _scale(
    low: float, high: float, begin: float, end: float, *, log: bool
) -> Callable[[float], float]:
    if log:
        low, high = math.log(low), math.log(high)

        def place_log(value: float) -> float:
            known = min(max(math.log(value), low), high) if value > 0 else low
            return begin + (known - low) / (high - low) * (end - begin)

        return place_log
    return lambda value: begin + (value - low) / (high - low) * (end - begin)


def _line(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    path = "L".join(f"{x(px):.1f} {y(py):.1f}" for px, py in line.points)
    dashed = " dashed" if line.dashed else ""
    return f'<path class="line {line.kind}{dashed}" d="M{path}"/>'


def _legend(shown: Sequence[Line], width: float) -> tuple[str, float]:
    """Names of the lines, wrapped, and how high that is."""
    parts: list[str] = []
    x = y = 0.0
    for line in shown:
        if not line.label:
            continue
        wide = len(line.label) * _CHARACTER + 40
        if x and x + wide > width:
            x, y = 0.0, y + 17
        dashed = " dashed" if line.dashed else ""
        parts.append(
            f'<path class="line {line.kind}{dashed}" d="M{x:.1f} {y + 7:.1f}h18"/>'
            + _text(x + 24, y + 11, line.label, "tick")
        )
        x += wide
    return "".join(parts), y + 20 if parts else 0.0


def _cut(text: str, width: float) -> str:
    most = int(width / _CHARACTER)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    place = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}"{place}>{escape(text)}</text>'


def _svg(width: int, height: float, kind: str, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width} {height:.0f}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
