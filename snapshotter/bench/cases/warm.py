"""Reading a model that is complete on this node, against the same file on the local disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from snapshotter.bench.case import Case, Contender, Plan, Trial
from snapshotter.bench.contenders import native
from snapshotter.bench.downloads import local
from snapshotter.bench.machine import drop_caches
from snapshotter.bench.patterns import scattered, whole
from snapshotter.bench.reading import Job, read
from snapshotter.bench.settings import MIB
from snapshotter.bench.stage import Stage
from snapshotter.mounts.options import MountOptions

_PAGE = 4096
_HOT_READS, _DROPPED_READS = 100_000, 2_000
_PASSTHROUGH = "passthrough"


class _Mounted:
    """A complete, verified model behind a mount, made at the first use and kept for the case."""

    def __init__(self, stage: Stage, *, passthrough: bool) -> None:
        self._stage = stage
        self._config = {} if passthrough else {"mounts": {_PASSTHROUGH: False}}
        self._path: Path | None = None
        self.in_use = False
        """Whether the kernel reads the cache's file by itself."""

    def path(self) -> Path:
        if self._path is None:
            model = self._stage.single()
            node = self._stage.keep(self._stage.node(self._config))
            self._path = node.mount(self._stage.reference(model, 0)) / model.largest.path
            read([self._path], Job(whole([model.largest.size])))
            node.wait_until_verified()
            self.in_use = bool(node.stats()["models"][0].get(_PASSTHROUGH))
        return self._path


def _plan(stage: Stage) -> Plan:
    model = stage.single()
    size = model.largest.size
    mounted = {"modelpack": _Mounted(stage, passthrough=True)}
    if any(field.name == _PASSTHROUGH for field in msgspec.structs.fields(MountOptions)):
        mounted["modelpack, no passthrough"] = _Mounted(stage, passthrough=False)
    trials = []
    for cache, reads in (("hot", _HOT_READS), ("dropped", _DROPPED_READS)):
        jobs = {
            "sequential, 1 MiB": Job(whole([size]), block=MIB),
            "random, 4 KiB": Job(scattered(size, _PAGE, reads), block=_PAGE, latencies=True),
            "mapped, forward": Job(whole([size]), block=MIB, mapped=True),
        }
        for name, job in jobs.items():
            ours = [
                _reading(each.path, label, cache, job, ours=True) for label, each in mounted.items()
            ]
            trials.append(
                Trial(
                    f"{name}, page cache {cache}",
                    "rate",
                    [
                        *ours,
                        _reading(
                            lambda: local(stage, model, model.largest),
                            "native",
                            cache,
                            job,
                            ours=False,
                        ),
                    ],
                    also=("seconds", "reader_per_gib"),
                    group=f"page cache {cache}",
                )
            )
    return Plan(trials)


def _reading(
    path: Callable[[], Path], label: str, cache: str, job: Job, *, ours: bool
) -> Contender:
    def prepare() -> None:
        where = path()
        if cache == "hot":
            read([where], Job(whole([where.stat().st_size])))
        else:
            drop_caches([where])

    def paths() -> Sequence[Path]:
        return [path()]

    where = "the mount, complete and verified" if ours else "the same file on the local disk"
    how = f"{where}; {'read once before' if cache == 'hot' else 'page cache dropped before'}"
    contender = native(paths, label, how, prepare, job)
    return Contender(label, how, contender.run, ours=ours)


WARM = Case(
    "warm",
    "Warm",
    "a complete model: sequential, random 4 KiB and mapped; page cache hot and dropped",
    "the same file on the local file system",
    _plan,
)
