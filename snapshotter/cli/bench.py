"""`modelpack bench`: how fast models are read on this node, and against what."""

from __future__ import annotations

import shlex
import signal
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from snapshotter.bench.case import Case, Trial
from snapshotter.bench.cases import select
from snapshotter.bench.errors import BenchError
from snapshotter.bench.html import render
from snapshotter.bench.results import CaseResult, Report, encode
from snapshotter.bench.runner import run
from snapshotter.bench.settings import MIB, Settings
from snapshotter.bench.terminal import case_table, closing, goals_table, heading
from snapshotter.cli.options import Settings as CliSettings
from snapshotter.units import ByteSize

_LEAST_SIZE = 16 * MIB
_LONGEST = 60_000
_UNFOLDED = 160
"""Columns where there is no terminal: lines that fit a log."""


class _Size(click.ParamType[int]):
    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        try:
            return int(ByteSize.parse(value))
        except ValueError as error:
            self.fail(str(error), param, context)


class _RoundTrips(click.ParamType[tuple[float, ...]]):
    name = "ms,ms,..."

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        found = set()
        for part in str(value).split(","):
            try:
                milliseconds = float(part.strip().removesuffix("ms"))
            except ValueError:
                milliseconds = -1.0
            if not 0 <= milliseconds <= _LONGEST:
                self.fail(f"{part!r} is no number of milliseconds", param, context)
            found.add(milliseconds / 1000)
        return tuple(sorted(found))


@click.command()
@click.argument("cases", metavar="[CASE]...", nargs=-1)
@click.option("--list", "listing", is_flag=True, help="Show the cases, run nothing.")
@click.option(
    "--reference",
    default="",
    help="Measure with this model, from its own registry, instead of models that are made.",
)
@click.option(
    "--size",
    type=_Size(),
    default="512MiB",
    show_default=True,
    help="Weights of each model that is made.",
)
@click.option(
    "--rtt",
    "rtts",
    type=_RoundTrips(),
    default="0,20,100",
    show_default=True,
    help="Round trips to the registry, in milliseconds.",
)
@click.option(
    "--rate",
    type=_Size(),
    default=0,
    help="Bytes per second that the way to the registry carries.  [default: no limit]",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Runs of everything; the median counts.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="NAME",
    help="A further snapshotter of the node's containerd as a baseline of cold-whole and "
    "snapshots; repeatable.",
)
@click.option(
    "--containerd",
    default="",
    metavar="ADDRESS",
    help="Socket of the containerd that is a baseline.  "
    "[default: /run/containerd/containerd.sock where it exists]",
)
@click.option(
    "--registry-program",
    default="",
    metavar="PATH",
    help="docker-registry.  [default: the one on PATH, else a small server of our own]",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, exists=True, writable=True, path_type=Path),
    help="Where models and caches lie while it runs; a real disk.  [default: $TMPDIR or /tmp]",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write everything measured as JSON.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a report with plots, one file that needs nothing else.",
)
@click.pass_context
def bench(
    context: click.Context,
    cases: tuple[str, ...],
    listing: bool,
    reference: str,
    size: int,
    rtts: tuple[float, ...],
    rate: int,
    repeat: int,
    against: tuple[str, ...],
    containerd: str,
    registry_program: str,
    directory: Path | None,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Measure how fast models are read on this node, next to the ways people use today.

    Starts all it needs on loopback and in a temporary directory, and takes it away
    again: registry, a forwarder that makes round trips, models, a node of its own,
    readers. As root it drops the page cache of the machine where a case says so.

    \b
    Examples:
      modelpack bench
      modelpack bench cold-sequential warm --size 4GiB --html report.html
      modelpack bench readers --reference registry.example.com/models/qwen3:8b
    """
    chosen = select(cases)
    console = Console() if sys.stdout.isatty() else Console(width=_UNFOLDED)
    if listing:
        console.print(_listing(chosen))
        return
    if size < _LEAST_SIZE:
        raise BenchError(f"--size is {size} bytes: give 16MiB or more")
    settings = Settings(
        size=size,
        rtts=rtts,
        rate=rate,
        repeat=repeat,
        reference=reference,
        config=_node_config(context.obj),
        directory=directory,
        registry_program=registry_program,
        containerd=containerd,
        against=against,
    )
    with _progress(console) as progress, _terminable():
        report = run(chosen, settings, progress, command=shlex.join(["modelpack", *sys.argv[1:]]))
    _finish(report, console, json_file, html_file)


def _finish(
    report: Report, console: Console, json_file: Path | None, html_file: Path | None
) -> None:
    console.print()
    console.print(heading(report))
    console.print(goals_table(report))
    console.print(closing(report))
    for path, data in ((json_file, encode), (html_file, render)):
        if path is not None:
            try:
                path.write_bytes(data(report))
            except OSError as error:
                raise BenchError(f"cannot write {path}: {error.strerror}") from None
            console.print(f"written: {path}")
    failed = [case.name for case in report.cases if case.failed]
    if report.interrupted:
        raise click.Abort
    if failed:
        raise BenchError(f"failed: {', '.join(failed)}; see above why")


def _node_config(settings: CliSettings) -> dict[str, Any]:
    """What ``--config`` says about registries, cache, fetching and mounts."""
    if settings.path is None:
        return {}
    settings.config  # noqa: B018  # says what is wrong with it
    table = tomllib.loads(settings.path.read_text())
    return {key: table[key] for key in ("registry", "cache", "fetch", "mounts") if key in table}


def _listing(cases: list[Case]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("CASE", "WHAT", "BASELINE BESIDE IT"):
        table.add_column(column, overflow="fold")
    for case in cases:
        table.add_row(case.name, case.what, case.baseline)
    return table


class _Shown:
    """Progress as one line on a terminal, as a line for each case elsewhere."""

    def __init__(self, progress: Progress, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._task = progress.add_task("", total=None)
        self._case = self._trial = ""

    def case(self, case: Case, number: int, of: int) -> None:
        self._case = f"{number}/{of} {case.name}"
        self._trial = ""
        self._progress.reset(self._task, description=self._case, total=None)

    def trial(self, trial: Trial, number: int, of: int) -> None:
        self._trial = trial.title
        self._progress.update(self._task, completed=number - 1, total=of)

    def run(self, contender: str, number: int, of: int) -> None:
        self._progress.update(
            self._task, description=f"{self._case}: {self._trial}: {contender} ({number}/{of})"
        )

    def say(self, what: str) -> None:
        self._progress.update(self._task, description=f"{self._case}: {what} ...".lstrip(": "))

    def done(self, result: CaseResult) -> None:
        # Above the line that moves, when there is one.
        (self._progress.console if self._console.is_terminal else self._console).print(
            case_table(result)
        )


@contextmanager
def _progress(console: Console) -> Iterator[_Shown]:
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TimeElapsedColumn(),
        console=console if console.is_terminal else Console(stderr=True),
        transient=True,
        disable=not (console.is_terminal or sys.stderr.isatty()),
    )
    with progress:
        yield _Shown(progress, console)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
