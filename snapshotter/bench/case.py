"""A case as it is declared: what is compared with what, and how each of them runs once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from snapshotter.bench.stage import Stage


@dataclass(slots=True)
class Sample:
    """One run of one contender."""

    measures: dict[str, float]
    timeline: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start, bytes the reader had."""
    arrived: list[tuple[float, float]] = field(default_factory=list)
    """Seconds since the start, bytes on the disk, where a download comes first."""
    latencies: list[float] = field(default_factory=list)
    """Seconds, one for each read."""


@dataclass(frozen=True, slots=True)
class Contender:
    """We, or a baseline."""

    name: str
    how: str
    run: Callable[[], Sample]
    ours: bool = False


@dataclass(frozen=True, slots=True)
class Trial:
    """Contenders that run in turns under the same circumstances."""

    title: str
    measure: str
    contenders: Sequence[Contender]
    also: Sequence[str] = ()
    group: str = ""
    """Trials of one group share a plot."""
    rtt: float = 0.0
    """Seconds the registry is away."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a case does on this machine."""

    trials: Sequence[Trial]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that matters about reading models."""

    name: str
    title: str
    what: str
    baseline: str
    plan: Callable[[Stage], Plan]
