from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from snapshotter.bench import machine
from snapshotter.bench.case import Contender, Sample, Trial
from snapshotter.bench.headline import headline
from snapshotter.bench.html import render
from snapshotter.bench.results import CaseResult, ForwarderResult, Report, TrialResult, encode
from snapshotter.bench.runner import run_trial
from snapshotter.bench.settings import Settings
from snapshotter.bench.terminal import print_report
from snapshotter.errors import ModelpackError


def contender(name: str, seconds: list[float], *, ours: bool = False) -> Contender:
    left = iter(seconds)

    def run() -> Sample:
        value = next(left)
        return Sample(
            {"seconds": value, "rate": 1 / value},
            timeline=[(0.0, 0.0), (value, 1024.0)],
            arrived=[] if ours else [(0.0, 0.0), (value / 2, 1024.0)],
            latencies=[value, value * 2],
        )

    return Contender(name, f"how {name} <runs>", run, ours=ours)


def trial(*contenders: Contender, repeat: int = 3) -> TrialResult:
    return run_trial(Trial("at 0 ms", "seconds", contenders, also=("rate",)), repeat)


def case(*trials: TrialResult, failed: str = "") -> CaseResult:
    return CaseResult(
        name="some", title="Some case", what="reads", baseline="curl", trials=list(trials),
        failed=failed, notes=["a note & more"],
    )  # fmt: skip


@pytest.fixture
def report(tmp_path: Path) -> Report:
    result = trial(contender("modelpack", [1, 2, 3], ours=True), contender("curl <x>", [4, 4, 4]))
    return Report(
        version="0",
        command="modelpack bench",
        started="2026-01-01T00:00:00+00:00",
        machine=machine.describe(tmp_path),
        settings=Settings().describe(),
        origin="our own",
        forwarder=[ForwarderResult(connections=1, through=2.0, direct=math.nan)],
        cases=[case(result), case(failed="no <disk>")],
    )


class _Tags(HTMLParser):
    """Every tag that is opened is closed."""

    void = ("meta",)

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name in ("src", "onclick") for name, _ in attrs)
        if tag not in (*self.void, "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_contenders_run_in_turns_and_the_order_turns_too() -> None:
    told: list[str] = []
    contenders = [contender("a", [1, 1], ours=True), contender("b", [1, 1])]
    run_trial(Trial("t", "seconds", contenders), 2, lambda name, *_: told.append(name))
    assert told == ["a", "b", "b", "a"]


def test_we_are_compared_with_every_baseline() -> None:
    result = trial(contender("ours", [1, 2, 3], ours=True), contender("curl", [4, 4, 4]))
    (comparison,) = result.comparisons
    assert [comparison.times, comparison.low, comparison.high] == pytest.approx([2, 4 / 3, 4])


def test_a_contender_that_fails_is_reported_and_the_others_go_on() -> None:
    def fail() -> Sample:
        raise ModelpackError("it broke")

    broken = Contender("broken", "", fail)
    result = run_trial(Trial("t", "seconds", [contender("ours", [1, 2, 3], ours=True), broken]), 3)
    ours, theirs = result.contenders
    assert (len(ours.samples), theirs.failed, result.comparisons) == (3, "it broke", [])


def test_the_time_line_of_the_median_run_is_kept() -> None:
    (ours,) = trial(contender("ours", [3, 1, 2], ours=True)).contenders
    assert ours.timeline[-1] == (2, 1024.0)


def test_json_is_read_back_as_it_was(report: Report) -> None:
    document = json.loads(encode(report))
    assert document["schema"] == 1
    found = document["cases"][0]["trials"][0]["contenders"][0]
    assert found["summary"]["seconds"] == {"median": 2, "low": 1, "high": 3, "count": 3}
    assert len(found["latencies"]) == 101
    cases = msgspec.convert(document["cases"], list[CaseResult])
    assert cases == msgspec.convert(msgspec.to_builtins(report.cases), list[CaseResult])


def test_a_number_json_does_not_know_is_null(report: Report) -> None:
    assert json.loads(encode(report))["forwarder"][0]["direct"] is None


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(report: Report) -> None:
    page = render(report).decode()
    tags = _Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & set(tags.seen)
    assert "url(" not in page
    assert "<x>" not in page
    assert "no &lt;disk&gt;" in page


def test_the_page_has_bars_time_lines_and_distributions(report: Report) -> None:
    page = render(report).decode()
    assert page.count('<svg class="bars"') == 1
    assert page.count('<svg class="lines"') == 2


def test_the_terminal_shows_every_contender_and_failure(report: Report) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_report(console, report)
    console.file.close()
    text = console.export_text()
    for expected in ("modelpack", "curl <x>", "2.00 s", "2.00 x", "failed: no <disk>"):
        assert expected in text


def test_the_headline_is_ours_against_the_best_baseline() -> None:
    result = trial(
        contender("ours", [2], ours=True),
        contender("curl", [4]),
        contender("aria2c", [3]),
        repeat=1,
    )
    assert headline(case(result)).value == "1.50 x"
    assert headline(case(result)).verdict == "good"


def test_the_headline_of_a_failed_case_says_so() -> None:
    assert headline(case(failed="why")).caption == "why"
