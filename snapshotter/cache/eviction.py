"""Which bytes go when the space is needed: the least recently used. Pure.

Blobs that no mounted model has go first, then those of mounted models that nobody has
read or fetched for a while: their readers fetch them again. Never those of pinned models,
nor those the kernel reads by itself, to which a hole would be zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from snapshotter.artifact.digest import Digest

HUGE = 256 << 20
"""Bytes from which on a blob is not evicted as a whole when a part of it is enough."""
_STEP = 1 << 20
"""Parts begin at multiples of it, which are those of every file system's blocks."""


class Kind(StrEnum):
    BLOB = "blob"
    UNPACKED = "unpacked"
    """What a compressed blob became; only all of it can go."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that takes ``allocated`` bytes of the disk and was last used at ``used_at``."""

    digest: Digest
    size: int
    allocated: int
    used_at: float
    kind: Kind = Kind.BLOB
    mounted: bool = False
    """A mounted model has it."""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Eviction:
    """All of it, or as many ``wanted`` bytes of it."""

    candidate: Candidate
    wanted: int | None = None


def choose(
    candidates: Iterable[Candidate], excess: int, *, idle_since: float, huge: int = HUGE
) -> list[Eviction]:
    """What to evict so that ``excess`` bytes become free; as much of it as there is.

    Of what mounted models have only blobs that were not used after ``idle_since``.
    """
    free_to_go = sorted(
        (one for one in candidates if _may_go(one, idle_since)),
        key=lambda one: (one.mounted, one.used_at),
    )
    chosen = []
    for one in free_to_go:
        if excess <= 0:
            break
        part = one.kind is Kind.BLOB and one.size >= huge and one.allocated > excess
        chosen.append(Eviction(one, excess if part else None))
        excess -= one.allocated
    return chosen


def _may_go(one: Candidate, idle_since: float) -> bool:
    if one.pinned or not one.allocated:
        return False
    return not one.mounted or (one.kind is Kind.BLOB and one.used_at <= idle_since)


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
