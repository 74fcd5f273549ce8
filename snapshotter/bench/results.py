"""What a run of the benchmark leaves behind: the JSON document, and what the reports show.

Times are seconds, sizes bytes, rates bytes per second. ``schema`` grows when a reader of
older documents would misunderstand a newer one.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from snapshotter.bench.statistics import Summary

SCHEMA = 1


class _Result(msgspec.Struct, frozen=True, kw_only=True):
    pass


class ContenderResult(_Result, frozen=True, kw_only=True):
    """One of those who run in a trial: we, or a baseline."""

    name: str
    ours: bool
    how: str
    """How its numbers come about, in words or as a command line."""
    samples: list[dict[str, float]] = []
    """Every run: measure to value."""
    summary: dict[str, Summary] = {}
    timeline: list[tuple[float, float]] = []
    """Of the median run: seconds since its start, bytes the reader had by then."""
    arrived: list[tuple[float, float]] = []
    """Of the median run, where bytes are first downloaded: seconds, bytes on the disk."""
    latencies: list[float] = []
    """Of the median run: 101 quantiles of seconds for each read."""
    failed: str = ""
    """Why there are no numbers."""


class ComparisonResult(_Result, frozen=True, kw_only=True):
    """We against one baseline, by the trial's measure."""

    ours: str
    baseline: str
    times: float
    """How many times as good ours is: over 1 we win. Ratio of the medians."""
    low: float
    high: float


class TrialResult(_Result, frozen=True, kw_only=True):
    """One comparison under one set of circumstances."""

    title: str
    measure: str
    """The one that counts, see :data:`snapshotter.bench.measures.MEASURES`."""
    also: list[str] = []
    """Measures worth showing beside it."""
    group: str = ""
    """Trials of one group share a plot."""
    rtt: float = 0.0
    """Seconds the registry was away."""
    contenders: list[ContenderResult] = []
    comparisons: list[ComparisonResult] = []


class CaseResult(_Result, frozen=True, kw_only=True):
    """One row of `modelpack bench --list`."""

    name: str
    title: str
    what: str
    baseline: str
    seconds: float = 0.0
    trials: list[TrialResult] = []
    notes: list[str] = []
    """What a reader of the numbers must know, such as a baseline that was not there."""
    failed: str = ""


class GoalResult(_Result, frozen=True, kw_only=True):
    """Something that must be reached, and whether it was."""

    what: str
    wanted: str
    measured: str
    """For people; ``-`` where nothing was measured."""
    value: float | None = None
    """In the unit of ``measured``: seconds, bytes, times."""
    reached: bool | None
    """None: not measured."""
    where: str
    """The trial that was worst, or why there is no number."""


class ForwarderResult(_Result, frozen=True, kw_only=True):
    """What the forwarder itself can carry, without a round trip added."""

    connections: int
    through: float
    """Bytes per second through it."""
    direct: float
    """Bytes per second past it."""


class Report(_Result, frozen=True, kw_only=True):
    """Everything."""

    schema: int = SCHEMA
    version: str
    command: str
    started: str
    """ISO 8601, UTC."""
    seconds: float = 0.0
    interrupted: bool = False
    machine: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    origin: str = ""
    """Which program the bytes came from."""
    forwarder: list[ForwarderResult] = []
    caches: str = ""
    """What was done about page caches."""
    cases: list[CaseResult] = []
    goals: list[GoalResult] = []


def encode(report: Report) -> bytes:
    """Indented JSON; numbers that JSON does not know (infinite, NaN) become null."""
    builtins = _finite(msgspec.to_builtins(report))
    return msgspec.json.format(msgspec.json.encode(builtins), indent=1) + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
