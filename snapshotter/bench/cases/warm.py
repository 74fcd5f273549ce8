"""Reading a model that is complete on this node, against the same file on the local disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from snapshotter.bench.case import Case, Contender, Plan, Sample, Trial
from snapshotter.bench.contenders import sample_of
from snapshotter.bench.downloads import local
from snapshotter.bench.machine import drop_caches
from snapshotter.bench.patterns import scattered, whole
from snapshotter.bench.reading import Job, read
from snapshotter.bench.settings import GIB, MIB
from snapshotter.bench.stage import Stage

_PAGE = 4096
_HOT_READS, _DROPPED_READS = 100_000, 2_000
_HOT_BYTES = 2 * GIB
_PASSTHROUGH = "passthrough"
_BEFORE = {"hot": "read once before", "dropped": "page cache dropped before"}


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
    mounted = {
        "modelpack": _Mounted(stage, passthrough=True),
        "modelpack, no passthrough": _Mounted(stage, passthrough=False),
    }
    trials = []
    for cache, reads in (("hot", _HOT_READS), ("dropped", _DROPPED_READS)):
        # From memory a file is read in a few hundredths of a second: too short to be timed once.
        rounds = max(1, _HOT_BYTES // size) if cache == "hot" else 1
        jobs = {
            "sequential, 1 MiB": Job([whole([size])[0] * rounds], block=MIB),
            "random, 4 KiB": Job(scattered(size, _PAGE, reads), block=_PAGE, latencies=True),
            "mapped, forward": Job(whole([size]), block=MIB, mapped=True),
        }
        for name, job in jobs.items():
            ours = [_ours(each, label, cache, job) for label, each in mounted.items()]
            native = _native(lambda: local(stage, model, model.largest), cache, job)
            trials.append(
                Trial(
                    f"{name}, page cache {cache}",
                    "rate",
                    [*ours, native],
                    also=("seconds", "reader_per_gib", _PASSTHROUGH),
                    group=f"page cache {cache}",
                )
            )
    return Plan(trials)


def _ours(mounted: _Mounted, label: str, cache: str, job: Job) -> Contender:
    def run() -> Sample:
        sample = _read(mounted.path(), cache, job)
        sample.measures[_PASSTHROUGH] = float(mounted.in_use)
        return sample

    return Contender(label, f"the mount, complete and verified; {_BEFORE[cache]}", run, ours=True)


def _native(path: Callable[[], Path], cache: str, job: Job) -> Contender:
    how = f"the same file on the local disk; {_BEFORE[cache]}"
    return Contender("native", how, lambda: _read(path(), cache, job))


def _read(path: Path, cache: str, job: Job) -> Sample:
    if cache == "hot":
        read([path], Job(whole([path.stat().st_size])))
    else:
        drop_caches([path])
    reading = read([path], job)
    return sample_of(reading, reading.started)


WARM = Case(
    "warm",
    "Warm",
    "a complete model: sequential, random 4 KiB and mapped; page cache hot and dropped",
    "the same file on the local file system",
    _plan,
)
