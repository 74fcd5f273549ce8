"""Which bytes go when the disk is full: the least recently used. Pure.

Blobs that no mounted model has go first, then those of mounted models that nobody has
read or fetched for a while: their readers fetch them again. Never those of pinned models,
nor those the kernel reads by itself, to which a hole would be zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from snapshotter.artifact.digest import Digest

HUGE = 256 << 20
"""Bytes from which on a blob is not evicted as a whole when a part of it is enough."""
_STEP = 1 << 20
"""Parts begin at multiples of it, which are those of every file system's blocks."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A blob that takes ``allocated`` bytes of the disk and was last used at ``used_at``."""

    digest: Digest
    size: int
    allocated: int
    used_at: float
    mounted: bool = False
    """A mounted model has it."""
    kept: bool = False
    """Pinned, or known to be read by the kernel."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """All of a blob, or as many ``wanted`` bytes of it."""

    digest: Digest
    size: int
    wanted: int | None = None


def choose(candidates: Iterable[Candidate], excess: int, *, idle_since: float) -> list[Eviction]:
    """What to evict so that ``excess`` bytes become free; as much of it as there is.

    A blob of a mounted model used after ``idle_since`` stays.
    """
    free_to_go = [
        blob
        for blob in candidates
        if not blob.kept and blob.allocated and not (blob.mounted and blob.used_at > idle_since)
    ]
    free_to_go.sort(key=lambda blob: (blob.mounted, blob.used_at))
    chosen = []
    for blob in free_to_go:
        if excess <= 0:
            break
        part = blob.size >= HUGE and blob.allocated > excess
        chosen.append(Eviction(blob.digest, blob.size, excess if part else None))
        excess -= blob.allocated
    return chosen


def tail(present: Sequence[tuple[int, int]], wanted: int) -> list[tuple[int, int]]:
    """The last ``wanted`` bytes of ``present`` and up to a step more.

    The last, because a header is at the beginning, and so is what the next reader wants first.
    """
    ranges: list[tuple[int, int]] = []
    for start, end in reversed(present):
        if wanted <= 0:
            break
        if end - start > wanted:
            start = max(start, (end - wanted) // _STEP * _STEP)
        ranges.append((start, end))
        wanted -= end - start
    return ranges[::-1]
