"""Runs cases: contenders in turns, the order turned each time, medians of what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import msgspec
import structlog

from snapshotter import __version__
from snapshotter.bench import machine, statistics
from snapshotter.bench.case import Case, Contender, Sample, Trial
from snapshotter.bench.ceiling import measure_ceiling
from snapshotter.bench.errors import BenchError
from snapshotter.bench.goals import judge
from snapshotter.bench.measures import MEASURES
from snapshotter.bench.results import (
    CaseResult,
    ComparisonResult,
    ContenderResult,
    ForwarderResult,
    Report,
    TrialResult,
)
from snapshotter.bench.settings import Settings
from snapshotter.bench.stage import Stage
from snapshotter.errors import ModelpackError

log = structlog.get_logger(__name__)

_POINTS = 240


class Progress(Protocol):
    """Who is told how far it is."""

    def case(self, case: Case, number: int, of: int) -> None: ...
    def trial(self, trial: Trial, number: int, of: int) -> None: ...
    def run(self, contender: str, number: int, of: int) -> None: ...
    def say(self, what: str) -> None: ...
    def done(self, result: CaseResult) -> None: ...


@dataclass(slots=True)
class _Runs:
    """Of one contender."""

    contender: Contender
    samples: list[Sample] = field(default_factory=list)
    failed: str = ""


def run(
    cases: Sequence[Case], settings: Settings, progress: Progress, *, command: str = ""
) -> Report:
    """Run ``cases`` and clean up; on Ctrl-C what is finished is reported.

    A case or contender that fails is reported as failed and the rest goes on.
    """
    started = time.monotonic()
    report = Report(
        version=__version__,
        command=command,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=settings.describe(),
        caches=machine.about_caches(),
    )
    results: list[CaseResult] = []
    ceilings: list[ForwarderResult] = []
    interrupted = False
    with Stage(settings, progress.say) as stage:
        described = machine.describe(stage.directory)
        try:
            if not settings.reference and (settings.rate or any(settings.rtts)):
                progress.say("measuring the forwarder itself")
                ceilings = measure_ceiling(stage)
            for number, case in enumerate(cases, start=1):
                progress.case(case, number, len(cases))
                results.append(run_case(case, stage, settings.repeat, progress))
                progress.done(results[-1])
        except KeyboardInterrupt:
            interrupted = True
            stage.abandon()
        origin = stage.describe_origin()
    return msgspec.structs.replace(
        report,
        cases=results,
        goals=judge(results),
        forwarder=ceilings,
        origin=origin,
        machine=described,
        interrupted=interrupted,
        seconds=time.monotonic() - started,
    )


def run_case(case: Case, stage: Stage, repeat: int, progress: Progress) -> CaseResult:
    """All trials of one case."""
    started = time.monotonic()
    trials: list[TrialResult] = []
    notes: list[str] = []
    failed = ""
    try:
        plan = case.plan(stage)
        notes = list(plan.notes)
        for number, trial in enumerate(plan.trials, start=1):
            progress.trial(trial, number, len(plan.trials))
            trials.append(run_trial(trial, repeat, progress.run))
    except (ModelpackError, OSError) as error:
        log.debug("a case failed", case=case.name, exc_info=True)
        failed = str(error)
    finally:
        try:
            stage.end_case()
        except (ModelpackError, OSError) as error:
            failed = failed or f"cleaning up: {error}"
    return CaseResult(
        name=case.name,
        title=case.title,
        what=case.what,
        baseline=case.baseline,
        seconds=time.monotonic() - started,
        trials=trials,
        notes=notes,
        failed=failed,
    )


def run_trial(
    trial: Trial, repeat: int, tell: Callable[[str, int, int], None] = lambda *_: None
) -> TrialResult:
    """Every contender ``repeat`` times, in turns: what disturbs one disturbs the other."""
    runs = [_Runs(contender) for contender in trial.contenders]
    for turn in range(repeat):
        # Whoever went first goes last: nobody always profits from who ran before.
        first = turn % len(runs)
        for each in runs[first:] + runs[:first]:
            tell(each.contender.name, turn + 1, repeat)
            if not each.failed:
                _once(each)
    results = [_result(each, trial.measure) for each in runs]
    return TrialResult(
        title=trial.title,
        measure=trial.measure,
        also=list(trial.also),
        group=trial.group,
        rtt=trial.rtt,
        contenders=results,
        comparisons=compare(results, trial.measure),
    )


def compare(results: Sequence[ContenderResult], measure: str) -> list[ComparisonResult]:
    """Each of ours against each baseline, where both have numbers."""
    more = MEASURES[measure].better == "more"
    found = []
    for ours in results:
        for theirs in results:
            if ours.ours and not theirs.ours and ours.samples and theirs.samples:
                times = statistics.ratio(
                    [sample[measure] for sample in ours.samples],
                    [sample[measure] for sample in theirs.samples],
                    more_is_better=more,
                )
                found.append(
                    ComparisonResult(
                        ours=ours.name,
                        baseline=theirs.name,
                        times=times.median,
                        low=times.low,
                        high=times.high,
                    )
                )
    return found


def _once(each: _Runs) -> None:
    try:
        each.samples.append(each.contender.run())
    except (ModelpackError, OSError) as error:
        log.debug("a run failed", contender=each.contender.name, exc_info=True)
        each.failed = str(error)


def _result(each: _Runs, measure: str) -> ContenderResult:
    contender, samples = each.contender, each.samples
    if not samples:
        return ContenderResult(
            name=contender.name, ours=contender.ours, how=contender.how, failed=each.failed
        )
    keys = [key for key in samples[0].measures if all(key in x.measures for x in samples)]
    if measure not in keys:
        raise BenchError(f"{contender.name} does not say its {measure}")
    middle = samples[statistics.middle_index([x.measures[measure] for x in samples])]
    return ContenderResult(
        name=contender.name,
        ours=contender.ours,
        how=contender.how,
        samples=[sample.measures for sample in samples],
        summary={key: statistics.summarize([x.measures[key] for x in samples]) for key in keys},
        timeline=statistics.thin(middle.timeline, _POINTS),
        arrived=statistics.thin(middle.arrived, _POINTS),
        latencies=statistics.quantiles(middle.latencies),
        failed=each.failed,
    )
