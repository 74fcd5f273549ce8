"""What the demo shows: lines while it goes, a table at the end, numbers for scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from integration.demo.reading import Step
from snapshotter.units import format_size


@dataclass
class Run:
    """One way to bring the model into a container."""

    name: str
    total_bytes: int
    steps: list[Step] = field(default_factory=list)
    fetched: dict[str, int] = field(default_factory=dict)
    """Bytes of the model on this node after each step."""
    anonymous_bytes: int = 0
    """The most memory the daemon was seen to hold."""

    def step(self, name: str) -> Step:
        return next(step for step in self.steps if step.name == name)

    def since_start(self, name: str) -> float:
        """Seconds from the beginning of the pull to the end of the step."""
        return self.step(name).ended - self.steps[0].started

    def numbers(self) -> dict[str, Any]:
        """For ``--json``; seconds and bytes."""
        return {
            "seconds": {step.name: round(step.seconds, 4) for step in self.steps},
            "seconds_since_start": {
                step.name: round(self.since_start(step.name), 4) for step in self.steps
            },
            "fetched_bytes": self.fetched,
        }


class Timeline:
    """Prints a run's steps as they end."""

    def __init__(self, console: Console, run: Run) -> None:
        self._console = console
        self.run = run
        console.print(f"\n[bold]{run.name}[/]")

    def add(self, step: Step, *, fetched: int | None = None) -> None:
        self.run.steps.append(step)
        clock = f"{self.run.since_start(step.name):7.3f} s"
        took = f"{_duration(step.seconds):>7}"
        share = ""
        if fetched is not None:
            self.run.fetched[step.name] = fetched
            part = fetched / self.run.total_bytes
            filled = round(part * 10)
            share = f"[cyan]{'█' * filled}[/][dim]{'░' * (10 - filled)}[/] {part:6.1%} here"
        self._console.print(f"  [dim]{clock}[/]  [bold]{took}[/]  {step.what:<32.32} {share}")


def compare(console: Console, lazy: Run, ordinary: Run) -> None:
    """The table: both runs, and how many times faster the first one is."""
    table = Table(
        title="\nThe same container, the same bytes: seconds since the pull began",
        title_justify="left",
    )
    table.add_column("")
    for column in (lazy.name, ordinary.name, "ratio"):
        table.add_column(column, justify="right")
    rows = [
        ("pull", lazy.step("pull").seconds, ordinary.step("pull").seconds),
        ("container runs", lazy.since_start("start"), ordinary.since_start("start")),
        ("first byte read", lazy.since_start("header"), ordinary.since_start("header")),
        ("one tensor read", lazy.since_start("tensor"), ordinary.since_start("tensor")),
        ("whole model read", lazy.since_start("whole"), ordinary.since_start("whole")),
        ("second read, by itself", lazy.step("second").seconds, ordinary.step("second").seconds),
    ]
    for what, ours, theirs in rows:
        table.add_row(what, _duration(ours), _duration(theirs), f"{theirs / ours:.1f}x")
    table.add_row(
        "fetched when the container ran",
        f"{lazy.fetched.get('start', 0) / lazy.total_bytes:.1%}",
        "100.0%",
        "",
    )
    table.add_row("memory of the daemon", format_size(lazy.anonymous_bytes), "", "")
    console.print(table)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
