"""The report for a terminal: a table for each case, and how the numbers came about."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from snapshotter.bench.machine import summary
from snapshotter.bench.measures import MEASURES, format_times
from snapshotter.bench.results import CaseResult, ContenderResult, Report, TrialResult
from snapshotter.bench.statistics import Summary
from snapshotter.units import format_size

_NOISY = 0.3
"""A spread over this share of the median is worth a second look."""


_REACHED = {
    True: "[green]reached[/]",
    False: "[red]not reached[/]",
    None: "[yellow]not measured[/]",
}


def heading(report: Report) -> RenderableType:
    """What was measured where; above the tables."""
    lines = [f"[bold]modelpack bench[/] {report.version}, {report.started}"]
    lines.append(escape(summary(report.machine)))
    lines.append(f"bytes from {escape(report.origin)}; median of {report.settings['repeat']} runs")
    lines += [
        f"forwarder by itself, {each.connections} connection{'s' * (each.connections > 1)}: "
        f"{format_size(each.through)}/s (past it {format_size(each.direct)}/s)"
        for each in report.forwarder
    ]
    lines.append(escape(report.caches))
    return Text.from_markup("\n".join(lines))


def case_table(case: CaseResult) -> RenderableType:
    """One case."""
    parts: list[RenderableType] = [
        Text.from_markup(f"\n[bold cyan]{case.name}[/]  {escape(case.what)}")
    ]
    if case.trials:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("")
        table.add_column("")
        table.add_column("MEDIAN", justify="right")
        table.add_column("LOW - HIGH", justify="right", style="dim")
        table.add_column("OURS IS", justify="right")
        table.add_column("ALSO", style="dim", overflow="fold")
        for trial in case.trials:
            _add_trial(table, trial)
        parts.append(Padding(table, (0, 0, 0, 2)))
    if case.failed:
        parts.append(Text(f"  failed: {case.failed}", style="red"))
    parts += [Text(f"  {note}", style="dim") for note in case.notes]
    return Group(*parts)


def goals_table(report: Report) -> RenderableType:
    """What must be reached, and whether it was; nothing where nothing was measured of it."""
    if not report.goals:
        return Group()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("", "WANTED", "WORST MEASURED", "", "WHERE"):
        table.add_column(column, overflow="fold")
    for goal in report.goals:
        table.add_row(
            escape(goal.what),
            goal.wanted,
            goal.measured,
            _REACHED[goal.reached],
            Text(goal.where, style="dim"),
        )
    title = Text.from_markup("\n[bold cyan]goals[/]  for 2 CPUs and a registry on loopback")
    return Group(title, Padding(table, (0, 0, 0, 2)))


def print_report(console: Console, report: Report) -> None:
    """Everything, for instance again from a JSON file."""
    console.print(heading(report))
    for case in report.cases:
        console.print(case_table(case))
    console.print(goals_table(report))
    console.print(closing(report))


def closing(report: Report) -> RenderableType:
    """The last line."""
    text = f"\n{len(report.cases)} cases in {report.seconds:.0f} s"
    return Text(f"{text}, interrupted" if report.interrupted else text, style="dim")


def _add_trial(table: Table, trial: TrialResult) -> None:
    measure = MEASURES[trial.measure]
    for number, contender in enumerate(trial.contenders):
        title = f"{trial.title}" if number == 0 else ""
        name = f"[green]{escape(contender.name)}[/]" if contender.ours else escape(contender.name)
        if not contender.samples:
            table.add_row(title, name, "[red]failed[/]", "", "", escape(contender.failed))
            continue
        found = contender.summary[trial.measure]
        table.add_row(
            title,
            name,
            measure.format(found.median),
            _spread(found, measure.format),
            _times(trial, contender),
            _also(trial, contender),
        )


def _spread(found: Summary, form: object) -> str:
    assert callable(form)
    text = f"{form(found.low)} - {form(found.high)}"
    return f"[yellow]{text}[/]" if found.spread > _NOISY else text


def _times(trial: TrialResult, contender: ContenderResult) -> str:
    """Beside a baseline: how many times as good the best of ours is."""
    against = [x.times for x in trial.comparisons if x.baseline == contender.name]
    if contender.ours or not against:
        return ""
    best = max(against)
    return f"[{'green' if best >= 1 else 'red'}]{format_times(best)}[/]"


def _also(trial: TrialResult, contender: ContenderResult) -> str:
    shown = [key for key in trial.also if key in contender.summary]
    return ", ".join(MEASURES[key].phrase(contender.summary[key].median) for key in shown)
