"""What reading through a mount must reach, and whether it did. Pure.

The goals are for 2 CPUs and a registry on loopback, as ratios within one run of the benchmark.
The worst of all trials that a goal speaks of counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from snapshotter.bench.measures import MEASURES, format_times
from snapshotter.bench.results import (
    CaseResult,
    ComparisonResult,
    ContenderResult,
    GoalResult,
    TrialResult,
)

MIB = 1 << 20
_ROUNDED = 0.005
"""1.00 as it is printed."""


@dataclass(frozen=True, slots=True)
class Found:
    """A number, and where it was found."""

    where: str
    value: float


@dataclass(frozen=True, slots=True)
class Goal:
    """``find`` looks through the trials of ``case`` (of every case where that is empty)."""

    what: str
    case: str
    unit: str
    """A measure's key, or "times" for a ratio against a baseline, of which more is better."""
    bound: float
    find: Callable[[Sequence[TrialResult]], Iterator[Found]]
    lacking: str = ""
    """Why there may be no number although the case was run."""
    wanted: str = ""
    """The bound in words, where its number alone would not do."""


def judge(cases: Sequence[CaseResult]) -> list[GoalResult]:
    """Every goal whose case was run."""
    by_name = {case.name: case for case in cases}
    return [
        _judged(goal, [by_name[goal.case]] if goal.case else cases)
        for goal in GOALS
        if goal.case in by_name or (not goal.case and cases)
    ]


def _judged(goal: Goal, cases: Sequence[CaseResult]) -> GoalResult:
    more = goal.unit == "times"
    form = format_times if more else MEASURES[goal.unit].format
    wanted = goal.wanted or f"{'at least' if more else 'at most'} {form(goal.bound)}"
    found = list(goal.find([trial for case in cases for trial in case.trials]))
    if not found:
        failed = next((case.failed for case in cases if case.failed), "")
        why = failed or goal.lacking or "no run of it succeeded"
        return GoalResult(what=goal.what, wanted=wanted, measured="-", reached=None, where=why)
    worst = (min if more else max)(found, key=lambda each: each.value)
    reached = worst.value >= goal.bound if more else worst.value <= goal.bound
    return GoalResult(
        what=goal.what,
        wanted=wanted,
        measured=form(worst.value),
        value=worst.value,
        reached=reached,
        where=worst.where,
    )


# Where the numbers are


def _against(
    baseline: Callable[[str], bool],
    *,
    ours: Callable[[ContenderResult], bool] = lambda _: True,
    trials: Callable[[TrialResult], bool] = lambda _: True,
) -> Callable[[Sequence[TrialResult]], Iterator[Found]]:
    """How many times as good as baselines of such names, of each the best of ours."""

    def find(all_trials: Sequence[TrialResult]) -> Iterator[Found]:
        for trial in filter(trials, all_trials):
            names = {each.name for each in trial.contenders if each.ours and ours(each)}
            best: dict[str, ComparisonResult] = {}
            for each in trial.comparisons:
                if each.ours in names and baseline(each.baseline):
                    known = best.get(each.baseline)
                    if known is None or each.times > known.times:
                        best[each.baseline] = each
            for name, each in best.items():
                yield Found(f"{trial.title}, against {name}", each.times)

    return find


def _of_ours(
    measure: str,
    less: Callable[[TrialResult], float] = lambda _: 0.0,
) -> Callable[[Sequence[TrialResult]], Iterator[Found]]:
    """The highest median of our contenders, where they have that measure."""

    def find(trials: Sequence[TrialResult]) -> Iterator[Found]:
        for trial in trials:
            for each in trial.contenders:
                if each.ours and measure in each.summary:
                    yield Found(trial.title, each.summary[measure].median - less(trial))

    return find


def _highest(measure: str) -> Callable[[Sequence[TrialResult]], Iterator[Found]]:
    """The highest of all runs of ours."""

    def find(trials: Sequence[TrialResult]) -> Iterator[Found]:
        for trial in trials:
            for each in trial.contenders:
                if each.ours and measure in each.summary:
                    yield Found(f"{trial.title}, {each.name}", each.summary[measure].high)

    return find


def _flat(trials: Sequence[TrialResult]) -> Iterator[Found]:
    """How much later the first byte of one size came than that of another, at each distance."""
    alike: dict[tuple[float, str], list[float]] = {}
    for trial in trials:
        for each in trial.contenders:
            if "latency" in each.summary:
                of = alike.setdefault((trial.rtt, each.name), [])
                of.append(each.summary["latency"].median)
    for (rtt, name), medians in alike.items():
        if len(medians) > 1:
            yield Found(f"round trip {rtt * 1000:g} ms, {name}", max(medians) - min(medians))


def _passthrough(contender: ContenderResult) -> bool:
    """In use, not only asked for."""
    found = contender.summary.get("passthrough")
    return found is not None and found.low > 0


def _no_passthrough(contender: ContenderResult) -> bool:
    found = contender.summary.get("passthrough")
    return found is not None and found.high == 0


def _any(_: str) -> bool:
    return True


GOALS: tuple[Goal, ...] = (
    Goal(
        "cold sequential, 4 MiB reads, no round trip: against curl to a file",
        "cold-sequential",
        "times",
        1.0,
        _against(
            lambda name: name.startswith("curl"),
            ours=lambda each: "4 MiB" in each.name,
            trials=lambda trial: trial.rtt == 0,
        ),
        lacking="needs curl and --rtt 0",
    ),
    Goal(
        "the same over round trips: against the best parallel download",
        "cold-sequential",
        "times",
        0.9,
        _against(
            lambda name: not name.startswith("curl"),
            ours=lambda each: "4 MiB" in each.name,
            trials=lambda trial: trial.rtt > 0,
        ),
        lacking="needs --rtt with more than 0",
    ),
    Goal(
        "cold whole model: against containerd's overlayfs, pull and read",
        "cold-whole",
        "times",
        2.5,
        _against(lambda name: name == "containerd overlayfs"),
        lacking="needs a containerd, see --containerd",
    ),
    Goal(
        "real readers, cold, end to end: against download and local load",
        "readers",
        "times",
        1.0,
        _against(_any),
        lacking="needs one of the readers' packages",
        wanted="never slower",
    ),
    Goal(
        "the same, loads of the whole model",
        "readers",
        "times",
        1.5,
        _against(_any),
        lacking="needs one of the readers' packages",
    ),
    Goal(
        "warm with passthrough, sequential, random and mapped: against native",
        "warm",
        "times",
        0.97,
        _against(_any, ours=_passthrough),
        lacking="no passthrough: it needs root, Linux 6.9 and a cache that is not on overlayfs",
    ),
    Goal(
        "warm without passthrough, sequential: against native",
        "warm",
        "times",
        0.4,
        _against(
            _any, ours=_no_passthrough, trials=lambda trial: trial.title.startswith("sequential")
        ),
    ),
    Goal(
        "mount to first byte, beyond two round trips",
        "mount-first-byte",
        "beyond_two_rtts",
        0.05,
        _of_ours("beyond_two_rtts"),
    ),
    Goal(
        "the same, difference between 1 and 100 GiB",
        "mount-first-byte",
        "latency",
        0.02,
        _flat,
        wanted="flat: at most 20 ms",
    ),
    Goal(
        "lone reads of 4 KiB, cold, median beyond one round trip",
        "random-4k",
        "beyond_rtt",
        0.005,
        _of_ours("beyond_rtt"),
    ),
    Goal(
        "lone reads of 4 KiB, cold, bytes fetched for each",
        "random-4k",
        "fetched_each",
        128 << 10,
        _of_ours("fetched_each"),
    ),
    Goal(
        "several processes on one file, bytes fetched / file size",
        "shared",
        "fetched_ratio",
        1.0 + _ROUNDED,
        _highest("fetched_ratio"),
        wanted="1.00",
    ),
    Goal(
        "sparse use, bytes fetched / needed",
        "sparse",
        "fetched_ratio",
        1.2,
        _highest("fetched_ratio"),
    ),
    Goal(
        "anonymous memory of the node, any case",
        "",
        "rss_anon",
        150 * MIB,
        _highest("rss_anon"),
        lacking="no case that was run measures it",
    ),
    Goal(
        "user CPU for each GiB, without verification",
        "cost",
        "user_unverified",
        0.3,
        _of_ours("user_unverified"),
    ),
    Goal(
        "calls of the snapshotter, 99th percentile",
        "snapshots",
        "latency_p99",
        0.01,
        _of_ours("latency_p99"),
        wanted="single-digit ms",
    ),
)
