"""Cold page faults, as safetensors, llama.cpp and sglang take them."""

from __future__ import annotations

from snapshotter.bench.case import Case, Plan, Trial
from snapshotter.bench.contenders import alone, download_then_read, through_mount
from snapshotter.bench.downloads import parallel
from snapshotter.bench.patterns import Streams, interleaved, shuffled, whole
from snapshotter.bench.reading import Job
from snapshotter.bench.settings import MIB
from snapshotter.bench.stage import Stage

_WAYS = 4
_THREADS = 32
_RANDOM_BLOCK = 2 * MIB


def _plan(stage: Stage) -> Plan:
    model = stage.single()
    file = model.largest
    patterns: dict[str, Streams] = {
        "forward": whole([file.size]),
        f"{_WAYS} interleaved streams": interleaved(file.size, _WAYS, MIB),
        f"{_THREADS} threads at random": shuffled(file.size, _RANDOM_BLOCK, _THREADS),
    }

    def trial(name: str, streams: Streams) -> Trial:
        job = Job(streams, block=MIB, mapped=True)
        return Trial(
            name,
            "seconds",
            [
                through_mount(stage, model, [file], job, config=alone(model)),
                download_then_read(stage, model, [file], job, parallel(model)),
            ],
            also=("rate", "fetched_ratio", "requests", "cpu_per_gib", "rss_anon"),
            group="mapped",
        )

    return Plan(
        [trial(name, streams) for name, streams in patterns.items()],
        notes=[
            f"At random: every thread takes blocks of {_RANDOM_BLOCK // MIB} MiB from a shuffled "
            "list until all of the file was read once."
        ],
    )


COLD_MMAP = Case(
    "cold-mmap",
    "Cold, mapped",
    "one file by page faults: forward, four interleaved streams, 32 threads at random",
    "parallel download to the local disk, then the same faults; download time included",
    _plan,
)
