"""Readers in processes of their own, and samples of what they did."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapshotter.bench.patterns import Streams
from snapshotter.bench.process import Child


@dataclass(frozen=True, slots=True)
class Job:
    """What one process reads; paths are given when it is known where the files are."""

    streams: Streams
    block: int = 1 << 20
    mapped: bool = False
    latencies: bool = False

    def told(self, paths: Sequence[Path]) -> dict[str, Any]:
        return {
            "paths": [str(path) for path in paths],
            "streams": self.streams,
            "block": self.block,
            "mapped": self.mapped,
            "latencies": self.latencies,
        }


@dataclass(slots=True)
class Reading:
    """What readers did; times are of the monotonic clock, the same in all processes."""

    started: float
    ended: float
    bytes: int
    timeline: list[tuple[float, float]]
    """Absolute time, bytes."""
    latencies: list[float]
    cpu: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def since(self, zero: float) -> list[tuple[float, float]]:
        """The time line with seconds since ``zero``."""
        begun = self.started - zero
        return [(0.0, 0.0), (begun, 0.0), *((at - zero, count) for at, count in self.timeline)]


def read(paths: Sequence[Path], job: Job, processes: int = 1) -> Reading:
    """Run ``job`` in ``processes`` at once, all of which read the same."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child("reader", bare=True)) for _ in range(processes)]
        for child in children:
            child.ask(**job.told(paths))
        answers = _go(children)
    return Reading(
        started=min(answer["started"] for answer in answers),
        ended=max(answer["ended"] for answer in answers),
        bytes=sum(answer["bytes"] for answer in answers),
        timeline=[(at, count) for at, count in answers[0]["timeline"]],
        latencies=[latency for answer in answers for latency in answer["latencies"]],
        cpu=sum(answer["user"] + answer["system"] for answer in answers),
    )


def walk(directory: Path) -> tuple[float, int]:
    """Seconds for listing ``directory`` and asking for every file's attributes; files found."""
    with Child("reader", bare=True) as child:
        child.ask(directory=str(directory))
        (answer,) = _go([child])
    return answer["ended"] - answer["started"], answer["files"]


def _go(children: Sequence[Child]) -> list[dict[str, Any]]:
    for child in children:
        child.tell({"go": True})
    return [child.hear() for child in children]
