"""The cases of `modelpack bench`, in the order in which they run."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from snapshotter.bench.case import Case
from snapshotter.bench.cases.cold import COLD_SEQUENTIAL, COLD_WHOLE
from snapshotter.bench.cases.cost import COST
from snapshotter.bench.cases.counts import RANDOM_4K, SHARED, SPARSE
from snapshotter.bench.cases.mapped import COLD_MMAP
from snapshotter.bench.cases.opening import MOUNT_FIRST_BYTE, TREE
from snapshotter.bench.cases.readers import READERS
from snapshotter.bench.cases.snapshots import SNAPSHOTS
from snapshotter.bench.cases.warm import WARM
from snapshotter.bench.errors import BenchError

CASES: tuple[Case, ...] = (
    MOUNT_FIRST_BYTE,
    TREE,
    COLD_SEQUENTIAL,
    COLD_WHOLE,
    COLD_MMAP,
    SHARED,
    RANDOM_4K,
    SPARSE,
    WARM,
    READERS,
    COST,
    SNAPSHOTS,
)


def select(names: Sequence[str]) -> list[Case]:
    """The cases of these names in our order; all when there are none. :class:`BenchError`."""
    known = {case.name: case for case in CASES}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise BenchError(f"there is no case {name!r}: {hint}")
    return [case for case in CASES if not names or case.name in names]
