"""What the forwarder can carry by itself, so that nobody takes its limit for somebody else's."""

from __future__ import annotations

import json

from snapshotter.bench.process import Child
from snapshotter.bench.results import ForwarderResult
from snapshotter.bench.settings import GIB, MIB
from snapshotter.bench.stage import Stage
from snapshotter.bench.statistics import median

_CONNECTIONS = (1, 8)
_MOST = GIB
_RANGE = 8 * MIB
_RUNS = 3


def measure_ceiling(stage: Stage) -> list[ForwarderResult]:
    """Zeros to /dev/null, through a forwarder without round trip and limit, and past it."""
    model = stage.sparse(min(stage.settings.size, _MOST))
    file = model.largest
    told = {"target": model.registry, "rtt": 0, "rate": 0}
    results: list[ForwarderResult] = []
    with stage.scratch() as directory, Child("forwarder", json.dumps(told)) as forwarder:
        through = f"{forwarder.ask()['address']}/{model.repository}:{model.tag}"
        past = f"{model.registry}/{model.repository}:{model.tag}"
        config = json.dumps(stage.config_of(directory))
        for connections in _CONNECTIONS:
            rates: dict[str, list[float]] = {through: [], past: []}
            for _ in range(_RUNS):
                for reference, found in rates.items():
                    with Child("download", config) as child:
                        answer = child.ask(
                            reference=reference,
                            connections=connections,
                            range=_RANGE,
                            blobs=[(file.digest, file.size, "/dev/null")],
                        )
                    found.append(file.size / (answer["ended"] - answer["started"]))
            results.append(
                ForwarderResult(
                    connections=connections,
                    through=median(rates[through]),
                    direct=median(rates[past]),
                )
            )
    return results
