"""`modelpack doctor`: what works on this node, what does not, and the lines to change."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from snapshotter.cli.options import Settings, json_option, terminal
from snapshotter.doctor.checkup import examine
from snapshotter.doctor.finding import Finding, Level

_SHOWN = {
    Level.OK: ("ok", "green"),
    Level.UNKNOWN: ("?", "dim"),
    Level.WARNING: ("warning", "yellow"),
    Level.ERROR: ("error", "bold red"),
}


@click.command()
@click.argument("reference", metavar="[REFERENCE|REGISTRY]", required=False)
@json_option
@click.pass_obj
def doctor(settings: Settings, reference: str | None, as_json: bool) -> None:
    """Examine this node, and say what to change so that models can be mounted.

    Looks at kernel and FUSE, the daemon, containerd with the configuration it really
    has, docker, the cache's disk and credentials; with REFERENCE or REGISTRY also at
    that registry. Changes nothing. Without root it says what it could not look at.

    \b
    Exit status: 0 when there is no error (there may be warnings), else 1.

    \b
    Examples:
      modelpack doctor
      modelpack doctor registry.example.com/models/qwen3:8b
      modelpack doctor --json | jq '.findings[] | select(.level == "error")'
    """
    found = examine(settings.config, reference)
    if as_json:
        findings = list(found)
        report = {
            "errors": _count(findings, Level.ERROR),
            "warnings": _count(findings, Level.WARNING),
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(report, indent=2))
    else:
        findings = _show(found, terminal())
    if _count(findings, Level.ERROR):
        sys.exit(1)


def _show(found: Iterable[Finding], console: Console) -> list[Finding]:
    """Print findings as they come, by part."""
    findings: list[Finding] = []
    for finding in found:
        if not findings or findings[-1].part != finding.part:
            console.print(f"[bold]{escape(finding.part)}[/bold]", highlight=False)
        _show_one(finding, console)
        findings.append(finding)
    errors, warnings = _count(findings, Level.ERROR), _count(findings, Level.WARNING)
    console.print(
        f"\n{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}",
        highlight=False,
    )
    return findings


def _show_one(finding: Finding, console: Console) -> None:
    word, style = _SHOWN[finding.level]
    text = Table.grid(padding=(0, 1, 0, 0))
    text.add_column(width=10)
    text.add_column(overflow="fold")
    text.add_row(f"  [{style}]{word:8}[/]", escape(finding.what))
    if finding.why:
        text.add_row("", escape(finding.why))
    console.print(text, highlight=False)
    for change in finding.changes:
        where = "run:" if change.where == "run" else f"in {change.where}:"
        # As they are: lines to copy must not be folded.
        lines = [where, *(f"    {line}" for line in change.text.splitlines())]
        for line in lines:
            console.out(f"           {line}", highlight=False)


def _count(findings: Iterable[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)
