"""The report as one HTML file with plots: no script, no font, nothing from elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html import escape
from importlib import resources

from snapshotter.bench.headline import headline
from snapshotter.bench.machine import summary
from snapshotter.bench.measures import MEASURES, format_seconds, format_times
from snapshotter.bench.plots import Axis, Bar, BarGroup, Line, bars, lines
from snapshotter.bench.results import CaseResult, ContenderResult, Report, TrialResult
from snapshotter.units import format_size

_OURS, _BASES = 3, 4
"""Colours there are."""
_DIRECTIONS = {
    "more": "longer is better",
    "less": "shorter is better",
    "one": "1.00 is perfect: nothing fetched twice, nothing unasked",
}


def render(report: Report) -> bytes:
    """The whole file, UTF-8."""
    style = resources.files("snapshotter.bench").joinpath("report.css").read_text()
    sections = "".join(_section(case) for case in report.cases)
    tiles = "".join(_tile(case) for case in report.cases)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>modelpack bench, {escape(report.started)}</title>"
        f"<style>\n{style}</style></head><body><main>"
        f'{_heading(report)}<nav class="tiles">{tiles}</nav>'
        f"{_goals(report)}{sections}{_footer(report)}"
        "</main></body></html>\n"
    ).encode()


def kinds(contenders: Sequence[ContenderResult]) -> list[str]:
    """The colour of each: ours in cool ones, baselines in warm ones."""
    ours, bases = itertools.count(), itertools.count()
    return [
        f"ours-{next(ours) % _OURS}" if each.ours else f"base-{next(bases) % _BASES}"
        for each in contenders
    ]


def _heading(report: Report) -> str:
    facts = [
        ("Machine", escape(summary(report.machine))),
        ("Bytes from", escape(report.origin)),
        (
            "Numbers",
            f"median of {report.settings['repeat']} runs, contenders in turns; whiskers "
            "and ranges are the lowest and the highest run",
        ),
        ("Caches", escape(report.caches)),
    ]
    facts += [
        (
            f"Forwarder, {each.connections} conn.",
            f"carries {format_size(each.through)}/s by itself, "
            f"past it {format_size(each.direct)}/s",
        )
        for each in report.forwarder
    ]
    if report.command:
        facts.append(("Command", f"<code>{escape(report.command)}</code>"))
    rows = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in facts)
    size = format_size(report.settings["size_bytes"])
    what = report.settings["reference"] or f"models of {size}"
    return (
        f'<h1>Reading models on this node</h1><p class="soft">modelpack bench {report.version}, '
        f'{escape(report.started)}, {escape(what)}</p><dl class="facts">{rows}</dl>'
    )


def _footer(report: Report) -> str:
    cut = " It was interrupted: cases are missing." if report.interrupted else ""
    return (
        f"<footer>{len(report.cases)} cases in {report.seconds:.0f} s.{cut} Colours: cool ones are "
        "modelpack, warm and grey ones baselines. A badge says how many times as good modelpack "
        "is as that baseline.</footer>"
    )


def _tile(case: CaseResult) -> str:
    found = headline(case)
    return (
        f'<a class="tile {found.verdict}" href="#{case.name}"><span class="name">'
        f"{escape(case.title)}</span><b>{escape(found.value)}</b>"
        f'<span class="caption">{escape(found.caption)}</span></a>'
    )


_REACHED = {True: ("good", "reached"), False: ("bad", "not reached"), None: ("", "not measured")}


def _goals(report: Report) -> str:
    if not report.goals:
        return ""
    rows = []
    for goal in report.goals:
        kind, word = _REACHED[goal.reached]
        rows.append(
            f'<tr><td class="what">{escape(_capital(goal.what))}</td>'
            f'<td class="short">{escape(goal.wanted)}</td>'
            f'<td class="short"><b>{escape(goal.measured)}</b></td>'
            f'<td><span class="verdict {kind}">{word}</span></td>'
            f'<td class="how">{escape(goal.where)}</td></tr>'
        )
    reached = sum(goal.reached is True for goal in report.goals)
    return (
        '<section id="goals"><header><h2>Goals</h2></header>'
        f"<p>{reached} of {len(report.goals)} reached. "
        '<span class="soft">They are for 2 CPUs and a registry on loopback; the worst of all '
        "trials that a goal speaks of counts.</span></p>"
        '<div class="scroll"><table><tr><th>what</th><th>wanted</th><th>worst measured</th>'
        f"<th></th><th>where</th></tr>{''.join(rows)}</table></div></section>"
    )


def _section(case: CaseResult) -> str:
    parts = [
        f'<section id="{case.name}"><header><h2>{escape(case.title)}</h2>'
        f"<code>{case.name}</code></header>",
        f"<p>{escape(_capital(case.what))}. "
        f'<span class="soft">Beside it: {escape(case.baseline)}.</span></p>',
    ]
    if case.failed:
        parts.append(f'<p class="failed">Failed: {escape(case.failed)}</p>')
    for group, trials in itertools.groupby(case.trials, lambda trial: (trial.group, trial.measure)):
        parts.append(_bars(group[0], list(trials)))
    parts.append(_lines("Bytes the reader had over time", list(_timelines(case.trials))))
    parts.append(_lines("Latency of single reads", list(_latencies(case.trials))))
    parts += [f'<p class="note">{escape(note)}</p>' for note in case.notes]
    if case.trials:
        parts.append(_details(case.trials))
    return "".join((*parts, "</section>"))


def _bars(group: str, trials: Sequence[TrialResult]) -> str:
    measure = MEASURES[trials[0].measure]
    name = f"{group}: {measure.title}" if group else measure.title
    if all(len(trial.contenders) == 1 for trial in trials):
        # Nobody to compare with but each other: one group, named by the circumstances.
        alone = [replace(bar, label=trial.title) for trial in trials for bar in _bars_of(trial)]
        chart = bars([BarGroup("", alone)])
    else:
        chart = bars([BarGroup(trial.title, _bars_of(trial)) for trial in trials])
    failed = "".join(
        f'<p class="failed">{escape(trial.title)}, {escape(each.name)}: {escape(each.failed)}</p>'
        for trial in trials
        for each in trial.contenders
        if each.failed
    )
    heading = f"<h3>{escape(_capital(name))} <small>({_DIRECTIONS[measure.better]})</small></h3>"
    return f'{heading}<div class="scroll">{chart}</div>{failed}'


def _bars_of(trial: TrialResult) -> list[Bar]:
    measure = MEASURES[trial.measure]
    best: dict[str, float] = {}
    for comparison in trial.comparisons:
        best[comparison.baseline] = max(best.get(comparison.baseline, 0.0), comparison.times)
    found = []
    for each, kind in zip(trial.contenders, kinds(trial.contenders), strict=True):
        if each.samples:
            value = each.summary[trial.measure]
            times = best.get(each.name)
            found.append(
                Bar(
                    each.name,
                    value.median,
                    value.low,
                    value.high,
                    measure.format(value.median),
                    badge="" if times is None else f"ours {format_times(times)}",
                    good=times is None or times >= 1,
                    kind=kind,
                )
            )
    return found


def _timelines(trials: Sequence[TrialResult]) -> Iterator[str]:
    """Of trials in which somebody read for a while, beside somebody else."""
    for trial in trials:
        series: list[Line] = []
        for each, kind in zip(trial.contenders, kinds(trial.contenders), strict=True):
            if each.arrived:
                label = "" if each.timeline else f"{each.name} (on disk)"
                series.append(Line(label, _growing(each.arrived), kind, dashed=True))
            if each.timeline:
                series.append(Line(each.name, each.timeline, kind))
        if len(trial.contenders) > 1 and any(line.dashed for line in series):
            time = Axis("seconds", lambda value: f"{value:g}")
            size = Axis("bytes", _short_size, base=1024)
            yield lines(series, time, size, title=trial.title)


def _growing(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Blocks on the disk can shrink for a moment when a file system tidies up; bytes do not."""
    most = 0.0
    found = []
    for at, count in points:
        most = max(most, count)
        found.append((at, most))
    return found


def _latencies(trials: Sequence[TrialResult]) -> Iterator[str]:
    """The distribution of each trial with single reads; alone standing ones share a plot."""
    alone = [trial for trial in trials if len(trial.contenders) == 1]
    series = [
        Line(trial.title, _distribution(trial.contenders[0]), f"ours-{number % _OURS}")
        for number, trial in enumerate(trial for trial in alone if trial.contenders[0].latencies)
    ]
    if series:
        yield _distribution_plot(series, "")
    for trial in trials:
        if trial in alone:
            continue
        series = [
            Line(each.name, _distribution(each), kind)
            for each, kind in zip(trial.contenders, kinds(trial.contenders), strict=True)
            if each.latencies
        ]
        if series:
            yield _distribution_plot(series, trial.title)


def _distribution(contender: ContenderResult) -> list[tuple[float, float]]:
    return [(value, float(percent)) for percent, value in enumerate(contender.latencies)]


def _distribution_plot(series: Sequence[Line], title: str) -> str:
    latency = Axis("latency of a read", lambda value: format_seconds(value), log=True)
    share = Axis("share of reads", lambda value: f"{value:g} %", most=100)
    return lines(series, latency, share, title=title)


def _lines(title: str, plots: Sequence[str]) -> str:
    if not plots:
        return ""
    dots = " <small>(dotted: on the disk)</small>" if "dashed" in plots[0] else ""
    return f'<h3>{title}{dots}</h3><div class="grid-2">{"".join(plots)}</div>'


def _details(trials: Sequence[TrialResult]) -> str:
    rows = []
    for trial in trials:
        keys = [trial.measure, *(key for key in trial.also if key != trial.measure)]
        for each in trial.contenders:
            values = [
                f"{MEASURES[key].title} {MEASURES[key].format(each.summary[key].median)} "
                f'<span class="soft">({MEASURES[key].format(each.summary[key].low)} to '
                f"{MEASURES[key].format(each.summary[key].high)})</span>"
                for key in keys
                if key in each.summary
            ]
            text = "<br>".join(values) or f'<span class="failed">{escape(each.failed)}</span>'
            rows.append(
                f"<tr><td>{escape(trial.title)}</td><td>{escape(each.name)}</td><td>{text}</td>"
                f'<td class="how">{escape(each.how)}</td></tr>'
            )
    return (
        "<details><summary>All numbers, and how they came about</summary>"
        '<div class="scroll"><table><tr><th>circumstances</th><th>who</th>'
        "<th>median (lowest to highest)</th>"
        f"<th>how</th></tr>{''.join(rows)}</table></div></details>"
    )


def _short_size(value: float) -> str:
    return format_size(value).replace(".0 ", " ")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
