"""Before anything is read: how long until the first byte, and until the tree is known."""

from __future__ import annotations

from pathlib import Path

from snapshotter.bench.case import Case, Contender, Plan, Sample, Trial
from snapshotter.bench.contenders import OURS
from snapshotter.bench.machine import drop_caches
from snapshotter.bench.measures import format_rtt, latencies_of
from snapshotter.bench.node import Cost
from snapshotter.bench.published import Published
from snapshotter.bench.reading import Job, read, walk
from snapshotter.bench.settings import GIB
from snapshotter.bench.stage import Stage
from snapshotter.bench.statistics import median

_SIZES = (1 * GIB, 10 * GIB, 100 * GIB)
_COUNTS = (1, 200, 2000)
_MOUNTS = 3


def _first_byte(stage: Stage) -> Plan:
    return Plan(
        [
            Trial(
                f"{size // GIB} GiB, round trip {format_rtt(rtt)}",
                "latency",
                [_mounting(stage, size, rtt, met=True), _mounting(stage, size, rtt, met=False)],
                also=(
                    "latency_p90",
                    "latency_p99",
                    "beyond_two_rtts",
                    "round_trip",
                    "requests",
                    "fetched_bytes",
                ),
                group=f"round trip {format_rtt(rtt)}",
                rtt=rtt,
            )
            for rtt in stage.settings.rtts
            for size in _SIZES
        ],
        notes=[
            "The models are one sparse file each, served by our own range server whichever "
            "registry the other cases use.",
            "On first contact no connection to the registry is open yet, and to open one takes a "
            "round trip of its own: three are then the least, and the goal is two.",
            f"Every run mounts {_MOUNTS} times, each time on a fresh node with an empty cache; "
            "its percentiles are interpolated between these.",
        ],
    )


def _mounting(stage: Stage, size: int, rtt: float, *, met: bool) -> Contender:
    def run() -> Sample:
        model = stage.sparse(size)
        costs, seconds = zip(
            *(_mounted(stage, model, rtt, met=met) for _ in range(_MOUNTS)), strict=True
        )
        measures = latencies_of(seconds)
        measures["beyond_two_rtts"] = measures["latency"] - 2 * rtt
        measures["round_trip"] = stage.round_trip(model, rtt)
        measures["requests"] = median([cost.requests for cost in costs])
        measures["fetched_bytes"] = median([cost.fetched_bytes for cost in costs])
        return Sample(measures)

    how = "a fresh node resolves the reference and mounts; then open and read of one byte"
    if met:
        return Contender(OURS, f"{how}; connections are open, as after a pull", run, ours=True)
    return Contender(f"{OURS}, first contact", how, run, ours=True)


def _mounted(stage: Stage, model: Published, rtt: float, *, met: bool) -> tuple[Cost, float]:
    """What it cost, and the seconds to the first byte."""
    reference = stage.reference(model, rtt)
    with stage.node() as node, node.cost() as cost:
        if met:
            node.meet(reference)
        directory = node.mount(reference)
        reading = read([directory / model.largest.path], Job([[(0, 0, 1)]]))
    # A process that reads one byte was started in between: only its read counts.
    return cost, node.mount_seconds + reading.seconds


def _tree(stage: Stage) -> Plan:
    return Plan([_listing(stage, count) for count in _COUNTS])


def _listing(stage: Stage, count: int) -> Trial:
    def ours() -> Sample:
        model = stage.many(count)
        with stage.node() as node:
            directory = node.mount(stage.reference(model, 0))
            drop_caches()
            return _walked(directory, count)

    def theirs() -> Sample:
        model = stage.many(count)
        assert model.source is not None
        drop_caches()
        return _walked(model.source, count)

    return Trial(
        f"{count:,} files" if count > 1 else "1 file",
        "seconds",
        [
            Contender(OURS, "a fresh mount, dentries and inodes dropped", ours, ours=True),
            Contender("native", "the same files on the local disk, caches dropped", theirs),
        ],
        group="readdir and stat",
    )


def _walked(directory: Path, count: int) -> Sample:
    seconds, found = walk(directory)
    assert found == count
    return Sample({"seconds": seconds})


MOUNT_FIRST_BYTE = Case(
    "mount-first-byte",
    "Mount to first byte",
    "resolve, mount, open, read one byte of a model of 1, 10 and 100 GiB",
    "none: it must be flat in size, and about two round trips",
    _first_byte,
)

TREE = Case(
    "tree",
    "Listing",
    "list every directory and stat every file of 1, 200 and 2,000",
    "the same files on the local file system",
    _tree,
)
