"""One number for each case, for whoever reads no further. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from snapshotter.bench.measures import MEASURES, format_times
from snapshotter.bench.results import CaseResult, TrialResult
from snapshotter.bench.statistics import median

_WASTE = 1.2
"""Fetched over needed from which on it is no longer good."""


@dataclass(frozen=True, slots=True)
class Headline:
    value: str
    caption: str
    verdict: Literal["good", "bad", "plain"]


def headline(case: CaseResult) -> Headline:
    """Against the best baseline of each trial, where there are baselines; else the worst trial."""
    if case.failed:
        return Headline("failed", case.failed[:90], "bad")
    against = [times for times in map(against_best, case.trials) if times is not None]
    if against:
        middle = median(against)
        caption = "as good as the best baseline"
        if len(against) > 1:
            caption += (
                f"; {format_times(min(against))} to {format_times(max(against))} "
                f"in {len(against)} trials"
            )
        return Headline(format_times(middle), caption, "good" if middle >= 1 else "bad")
    worst = [
        (trial.measure, contender.summary[trial.measure].median)
        for trial in case.trials
        for contender in trial.contenders
        if contender.samples
    ]
    if not worst:
        return Headline("-", "nothing was measured", "plain")
    measure = MEASURES[worst[0][0]]
    value = max(value for key, value in worst if key == measure.key)
    caption = f"{measure.title}, worst of {len(worst)} trials"
    if measure.better == "one":
        return Headline(format_times(value), caption, "good" if value <= _WASTE else "bad")
    return Headline(measure.format(value), caption, "plain")


def against_best(trial: TrialResult) -> float | None:
    """Our best against the best of the baselines; None without any."""
    best: dict[str, float] = {}
    for comparison in trial.comparisons:
        known = best.get(comparison.baseline, 0.0)
        best[comparison.baseline] = max(known, comparison.times)
    return min(best.values()) if best else None
