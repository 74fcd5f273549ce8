"""What a cold read costs this node besides time."""

from __future__ import annotations

import shutil
import time

from snapshotter.bench.case import Case, Contender, Plan, Sample, Trial
from snapshotter.bench.contenders import alone, through_mount
from snapshotter.bench.patterns import whole
from snapshotter.bench.pipeline import Finished
from snapshotter.bench.published import Published
from snapshotter.bench.reading import Job
from snapshotter.bench.settings import GIB, MIB
from snapshotter.bench.stage import Stage

_ALSO = (
    "user_per_gib",
    "user_unverified",
    "system_per_gib",
    "reader_per_gib",
    "rss_anon",
    "switches_per_gib",
    "seconds",
)


def _plan(stage: Stage) -> Plan:
    model = stage.single()
    file = model.largest
    job = Job(whole([file.size]), block=MIB)
    contenders = [through_mount(stage, model, [file], job, config=alone(model))]
    notes = ["Ours is the node's process, hashing of what arrived so far included."]
    lacking = [name for name in ("curl", "sha256sum") if shutil.which(name) is None]
    if lacking:
        notes.append(f"No baseline: {' and '.join(lacking)} not on PATH.")
    elif model.loopback:
        contenders.append(_curl(stage, model))
    else:
        notes.append("No baseline: curl cannot reach the registry without our client.")
    return Plan([Trial("one cold file", "cpu_per_gib", contenders, also=_ALSO)], notes)


def _curl(stage: Stage, model: Published) -> Contender:
    file = model.largest

    def run() -> Sample:
        with stage.scratch() as directory:
            # As safe as ours: to a file, and hashed on the way.
            url, target = stage.url(model, file.digest, 0), str(directory / "file")
            started = time.monotonic()
            finished = Finished(
                [
                    ["curl", "-sSf", "--noproxy", "*", url],
                    ["tee", target],
                    ["sha256sum"],
                ]
            )
            seconds = time.monotonic() - started
        gib = file.size / GIB
        return Sample(
            {
                "seconds": seconds,
                "bytes": file.size,
                "rate": file.size / seconds,
                "cpu_per_gib": (finished.user + finished.system) / gib,
                "user_per_gib": finished.user / gib,
                "system_per_gib": finished.system / gib,
                "switches_per_gib": finished.switches / gib,
            }
        )

    how = "curl URL | tee FILE | sha256sum: CPU seconds of all three"
    return Contender("curl | tee | sha256sum", how, run)


COST = Case(
    "cost",
    "Cost",
    "CPU seconds for each GiB (user, system), anonymous memory, voluntary context switches",
    "curl and sha256sum",
    _plan,
)
