from __future__ import annotations

import pytest

from snapshotter.bench.case import Contender, Sample, Trial
from snapshotter.bench.cases import CASES
from snapshotter.bench.goals import GOALS, judge
from snapshotter.bench.results import CaseResult, GoalResult, TrialResult
from snapshotter.bench.runner import run_trial


def trial(
    measure: str,
    ours: dict[str, dict[str, float]],
    theirs: dict[str, dict[str, float]] | None = None,
    *,
    title: str = "some",
    rtt: float = 0.0,
) -> TrialResult:
    contenders = [
        Contender(name, "", lambda measures=measures: Sample(measures), ours=group is ours)
        for group in (ours, theirs or {})
        for name, measures in group.items()
    ]
    return run_trial(Trial(title, measure, contenders, rtt=rtt), 1)


def case(name: str, *trials: TrialResult, failed: str = "") -> CaseResult:
    return CaseResult(
        name=name, title="", what="", baseline="", trials=list(trials), failed=failed
    )  # fmt: skip


def goal(goals: list[GoalResult], start: str) -> GoalResult:
    (found,) = [each for each in goals if each.what.startswith(start)]
    return found


def rate(value: float) -> dict[str, float]:
    return {"rate": value}


def test_goals_of_cases_that_were_not_run_are_left_out() -> None:
    assert [each.what for each in judge([case("tree")])] == [
        "anonymous memory of the node, any case"
    ]
    assert judge([]) == []


def test_every_goal_is_of_a_case_that_exists() -> None:
    assert {each.case for each in GOALS} <= {"", *(each.name for each in CASES)}


def test_cold_reads_count_by_4_mib_against_curl_at_no_distance_only() -> None:
    near = trial(
        "rate",
        {"modelpack, 4 MiB reads": rate(11), "modelpack, 1 MiB reads": rate(90)},
        {"curl to a file": rate(10), "aria2c to a file": rate(50)},
    )
    far = trial(
        "rate",
        {"modelpack, 4 MiB reads": rate(8)},
        {"curl to a file": rate(99), "aria2c to a file": rate(10)},
        rtt=0.02,
        title="far",
    )
    goals = judge([case("cold-sequential", near, far)])
    first, second = goal(goals, "cold sequential"), goal(goals, "the same over round trips")
    assert (first.measured, first.reached) == ("1.10 x", True)
    assert (second.measured, second.reached) == ("0.80 x", False)
    assert second.where == "far, against aria2c to a file"


def test_the_worst_trial_counts() -> None:
    good = trial("latency", {"modelpack": {"latency": 0.04, "beyond_two_rtts": 0.04}}, rtt=0)
    bad = trial(
        "latency", {"modelpack": {"latency": 0.2, "beyond_two_rtts": 0.16}}, rtt=0.02, title="bad"
    )
    found = goal(judge([case("mount-first-byte", good, bad)]), "mount to first byte")
    assert (found.value, found.reached, found.where) == (0.16, False, "bad")


@pytest.mark.parametrize(("largest", "reached"), [(0.05, True), (0.09, False)])
def test_the_first_byte_must_be_flat_in_size(largest: float, reached: bool) -> None:
    trials = [
        trial("latency", {"modelpack": {"latency": seconds, "beyond_two_rtts": seconds}})
        for seconds in (0.04, 0.045, largest)
    ]
    found = goal(judge([case("mount-first-byte", *trials)]), "the same, difference")
    assert found.reached is reached


def test_passthrough_that_is_not_in_use_is_not_measured() -> None:
    asked_only = trial(
        "rate",
        {"modelpack": rate(5) | {"passthrough": 0.0}},
        {"native": rate(10)},
        title="sequential",
    )
    goals = judge([case("warm", asked_only)])
    with_it, without = goal(goals, "warm with passthrough"), goal(goals, "warm without")
    assert (with_it.reached, with_it.measured) == (None, "-")
    assert "Linux 6.9" in with_it.where
    assert (without.reached, without.measured) == (True, "0.50 x")


def test_only_passthrough_is_held_against_the_goal_of_passthrough() -> None:
    both = trial(
        "rate",
        {"modelpack": rate(10) | {"passthrough": 1.0}, "plain": rate(1) | {"passthrough": 0.0}},
        {"native": rate(10)},
        title="mapped",
    )
    assert goal(judge([case("warm", both)]), "warm with passthrough").value == 1.0


def test_readers_without_baseline_are_not_measured_rather_than_reached() -> None:
    found = goal(judge([case("readers")]), "real readers")
    assert (found.reached, found.where) == (None, "needs one of the readers' packages")


def test_a_case_that_failed_says_why_there_is_no_number() -> None:
    found = goal(judge([case("sparse", failed="no room")]), "sparse use")
    assert (found.reached, found.where) == (None, "no room")


def test_memory_is_that_of_any_case() -> None:
    small = trial("seconds", {"modelpack": {"seconds": 1, "rss_anon": 50 << 20}})
    large = trial("seconds", {"modelpack": {"seconds": 1, "rss_anon": 200 << 20}}, title="large")
    theirs = trial("seconds", {}, {"curl": {"seconds": 1, "rss_anon": 900 << 20}})
    found = goal(judge([case("tree", small), case("cost", large, theirs)]), "anonymous")
    assert (found.measured, found.reached) == ("200.0 MiB", False)
    assert found.where == "large, modelpack"


def test_bytes_fetched_by_several_processes_are_rounded_as_they_are_printed() -> None:
    for ratio, reached in ((1.004, True), (1.02, False)):
        shared = trial("fetched_ratio", {"modelpack": {"fetched_ratio": ratio}})
        assert goal(judge([case("shared", shared)]), "several").reached is reached
