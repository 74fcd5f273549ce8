"""What is made of repeated measurements: medians, spreads, ratios, distributions. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Summary(msgspec.Struct, frozen=True):
    """Some measurements of the same thing."""

    median: float
    low: float
    high: float
    count: int

    @property
    def spread(self) -> float:
        """Distance of lowest to highest, as a share of the median; 0 where that is 0."""
        return (self.high - self.low) / abs(self.median) if self.median else 0.0


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the middle two. ``values`` must not be empty."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def summarize(values: Sequence[float]) -> Summary:
    """``values`` must not be empty."""
    return Summary(median(values), min(values), max(values), len(values))


def middle_index(values: Sequence[float]) -> int:
    """Which of ``values`` is the (lower) median: the run that stands for all in a plot."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    return order[(len(order) - 1) // 2]


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of ascending values, interpolated; ``share`` from 0 to 1."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def quantiles(values: Sequence[float], steps: int = 100) -> list[float]:
    """The distribution as ``steps + 1`` values from the least to the greatest; [] of nothing."""
    if not values:
        return []
    ordered = sorted(values)
    return [percentile(ordered, step / steps) for step in range(steps + 1)]


def times_better(ours: float, theirs: float, *, more_is_better: bool) -> float:
    """How many times as good ours is; over 1 we win. Infinite or NaN where one is 0."""
    good, bad = (ours, theirs) if more_is_better else (theirs, ours)
    if bad == 0:
        return math.nan if good == 0 else math.inf
    return good / bad


def ratio(ours: Sequence[float], theirs: Sequence[float], *, more_is_better: bool) -> Summary:
    """Ratio of the medians; its range is that of the pairs which ran one after the other."""
    pairs = [
        times_better(one, other, more_is_better=more_is_better)
        for one, other in zip(ours, theirs, strict=False)
    ]
    middle = times_better(median(ours), median(theirs), more_is_better=more_is_better)
    return Summary(middle, min([*pairs, middle]), max([*pairs, middle]), len(pairs))


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most ``most`` of ``points``, evenly chosen; the first and the last stay."""
    if len(points) <= most:
        return list(points)
    step = (len(points) - 1) / (most - 1)
    return [points[round(number * step)] for number in range(most)]
