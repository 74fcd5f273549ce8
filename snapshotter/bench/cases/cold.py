"""Reading a model nobody has read here before, as a stream: one file, and all of it."""

from __future__ import annotations

from snapshotter.bench.case import Case, Contender, Plan, Trial
from snapshotter.bench.containerd import ORDINARY, Ctr, find_containerd, pull_then_read, visiting
from snapshotter.bench.contenders import alone, download_only, download_then_read, through_mount
from snapshotter.bench.downloads import every_parallel, one_stream, parallel
from snapshotter.bench.errors import Unavailable
from snapshotter.bench.measures import format_rtt
from snapshotter.bench.patterns import shared_out, whole
from snapshotter.bench.published import sizes
from snapshotter.bench.reading import Job
from snapshotter.bench.settings import MIB
from snapshotter.bench.stage import Stage

_BLOCKS = {"128 KiB": 128 << 10, "1 MiB": MIB, "4 MiB": 4 * MIB}
_READERS = (1, 4, 16)


def _sequential(stage: Stage) -> Plan:
    model = stage.single()
    file = model.largest
    notes: list[str] = []
    baselines = every_parallel(model)
    try:
        baselines.insert(0, one_stream(model))
    except Unavailable as error:
        notes.append(str(error))

    def trial(rtt: float) -> Trial:
        ours: list[Contender] = [
            through_mount(
                stage,
                model,
                [file],
                Job(whole([file.size]), block=block),
                rtt=rtt,
                config=alone(model),
                name=f"modelpack, {name} reads",
            )
            for name, block in _BLOCKS.items()
        ]
        theirs = [download_only(stage, model, [file], each, rtt=rtt) for each in baselines]
        return Trial(
            f"round trip {format_rtt(rtt)}",
            "rate",
            [*ours, *theirs],
            also=("seconds", "fetched_ratio", "requests", "cpu_per_gib", "rss_anon"),
            group="one file",
            rtt=rtt,
        )

    return Plan([trial(rtt) for rtt in _rtts(stage)], notes)


def _whole(stage: Stage) -> Plan:
    model = stage.sharded()
    files = model.weights
    notes: list[str] = []
    ctr = _ctr(stage, notes)
    snapshotters = [] if ctr is None else [ORDINARY, *stage.settings.against]
    trials = []
    for rtt in _rtts(stage):
        # Far away only the middle one: what a distance does is seen from it.
        for readers in _READERS if rtt == _rtts(stage)[0] else _READERS[1:2]:
            job = Job(shared_out(sizes(files), readers), block=4 * MIB)
            contenders = [
                through_mount(stage, model, files, job, rtt=rtt, from_mount=True),
                download_then_read(stage, model, files, job, parallel(model), rtt=rtt),
            ]
            if ctr is not None and model.loopback:
                contenders += [
                    pull_then_read(stage, ctr, name, model, files, job, rtt)
                    for name in snapshotters
                ]
            trials.append(
                Trial(
                    f"{readers} reader{'s' if readers > 1 else ''}, round trip {format_rtt(rtt)}",
                    "seconds",
                    contenders,
                    also=("rate", "fetched_ratio", "cpu_per_gib", "rss_anon", "download_seconds"),
                    group="whole model",
                    rtt=rtt,
                )
            )
    return Plan(trials, notes)


def _rtts(stage: Stage) -> tuple[float, ...]:
    """None can be added on the way to a registry that is not ours."""
    return stage.settings.rtts if not stage.settings.reference else (0.0,)


def _ctr(stage: Stage, notes: list[str]) -> Ctr | None:
    if stage.settings.reference:
        notes.append(
            "No containerd beside it: an ordinary image of the same bytes would have to be pushed "
            "to the registry of --reference."
        )
        return None
    try:
        ctr = find_containerd(stage.settings.containerd)
    except Unavailable as error:
        if stage.settings.containerd or stage.settings.against:
            raise
        notes.append(str(error))
        return None
    stage.keep(visiting(ctr))
    return ctr


COLD_SEQUENTIAL = Case(
    "cold-sequential",
    "Cold, one file from beginning to end",
    "read of 128 KiB, 1 MiB and 4 MiB each, nothing cached, at every round trip",
    "curl to a file; parallel ranged download to a file (aria2c -x16, our own)",
    _sequential,
)

COLD_WHOLE = Case(
    "cold-whole",
    "Cold, the whole model",
    "four shards by 1, 4 and 16 readers, nothing cached, time from the mount on",
    "download and read; containerd's overlayfs (and --against NAME): pull and read",
    _whole,
)
