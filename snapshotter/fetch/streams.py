"""Is somebody reading forward? Runs of reads that follow each other, found in what arrives.

The kernel splits a large read, and its own readahead, into requests of up to 1 MiB
that reach us in parallel and in any order within a few MiB; and one open file is
often read at several places in turn (interleaved tensors, threads with a slice
each). So a read belongs to the run whose head is nearest, and a run is judged by
the bytes read in it less the bytes skipped. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SLACK = 8 << 20
"""How far from a run's head a read may be and still belong to it, in bytes."""
MAX_RUNS = 8
"""Runs remembered for one stream; the one longest without a read is forgotten."""


@dataclass(slots=True, eq=False)
class Run:
    """Consecutive reads. ``credit`` is bytes read in a row: gaps are taken off again."""

    start: int
    head: int
    credit: int
    reads: int = 1
    last: float = -math.inf
    """When it was read last, in the caller's seconds."""

    def extend(self, start: int, end: int) -> None:
        self.credit = max(0, self.credit - max(0, start - self.head))
        self.start = start if self.credit == 0 else min(self.start, start)
        self.head = max(self.head, end)
        # Reading the same bytes again is no reading forward.
        self.credit = min(self.credit + end - start, self.head - self.start)
        self.reads += 1


def follow(runs: list[Run], start: int, end: int) -> Run:
    """Count a read of ``[start, end)`` to its run in ``runs``, a new one if need be."""
    near = [run for run in runs if abs(start - run.head) <= SLACK]
    if near:
        run = min(near, key=lambda run: abs(start - run.head))
        run.extend(start, end)
        runs.remove(run)
    else:
        run = Run(start, end, end - start)
    runs.append(run)
    del runs[:-MAX_RUNS]
    return run


def is_sequential(run: Run, after: int) -> bool:
    """Whether ``run`` reads forward: at least two reads, and ``after`` bytes in a row."""
    return run.reads > 1 and run.credit >= after
