"""The two ways every cold case knows: through a mount of ours, or download first and read then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from snapshotter.bench.case import Contender, Sample
from snapshotter.bench.downloads import Downloader
from snapshotter.bench.patterns import total
from snapshotter.bench.published import Published, PublishedFile
from snapshotter.bench.reading import Job, Reading, read
from snapshotter.bench.stage import Stage

OURS = "modelpack"


def alone(model: Published) -> Mapping[str, Any]:
    """Configuration for reading one file: where there are more, they are left where they are."""
    return {"fetch": {"background": False}} if len(model.weights) > 1 else {}


def sample_of(reading: Reading, zero: float, **measures: float) -> Sample:
    """What a reader did, counted from ``zero`` on."""
    seconds = reading.ended - zero
    return Sample(
        measures={
            "seconds": seconds,
            "bytes": reading.bytes,
            "rate": reading.bytes / seconds,
            "reader_per_gib": reading.cpu / max(reading.bytes, 1) * (1 << 30),
            **measures,
        },
        timeline=reading.since(zero),
        latencies=reading.latencies,
    )


def through_mount(
    stage: Stage,
    model: Published,
    files: Sequence[PublishedFile],
    job: Job,
    *,
    rtt: float = 0.0,
    processes: int = 1,
    config: Mapping[str, Any] | None = None,
    from_mount: bool = False,
    name: str = OURS,
) -> Contender:
    """A fresh node with an empty cache mounts ``model``, and ``job`` is read through it.

    ``from_mount``: the clock starts at the mount; else when the reader opens its files.
    """

    def run() -> Sample:
        with stage.node(config) as node, node.cost() as cost:
            directory = node.mount(stage.reference(model, rtt))
            reading = read([directory / file.path for file in files], job, processes)
        zero = node.mount_started if from_mount else reading.started
        sample = sample_of(reading, zero)
        sample.measures |= cost.measures(total(job.streams))
        return sample

    start = "time from the mount on" if from_mount else "time from open on, after the mount"
    return Contender(name, f"a fresh node, empty cache; {start}", run, ours=True)


def download_then_read(
    stage: Stage,
    model: Published,
    files: Sequence[PublishedFile],
    job: Job,
    downloader: Downloader,
    *,
    rtt: float = 0.0,
) -> Contender:
    """The whole of ``files`` by ``downloader``, and then ``job`` from the local file system."""

    def run() -> Sample:
        with stage.scratch() as directory:
            got = downloader.fetch(stage, model, files, rtt, directory)
            reading = read(got.paths, job)
        # The start of a reader process between the two is nobody's time.
        sample = sample_of(reading, reading.started - got.seconds, download_seconds=got.seconds)
        sample.arrived = got.arrived
        return sample

    return Contender(
        f"{downloader.name}, then read", f"{downloader.how}; then the same reads of it", run
    )


def download_only(
    stage: Stage,
    model: Published,
    files: Sequence[PublishedFile],
    downloader: Downloader,
    *,
    rtt: float = 0.0,
) -> Contender:
    """The bytes in files, and nobody has read them yet."""
    size = sum(file.size for file in files)

    def run() -> Sample:
        with stage.scratch() as directory:
            got = downloader.fetch(stage, model, files, rtt, directory)
        return Sample(
            measures={
                "seconds": got.seconds,
                "bytes": size,
                "rate": size / got.seconds,
                "cpu_per_gib": got.cpu / size * (1 << 30),
            },
            arrived=got.arrived,
        )

    return Contender(f"{downloader.name} to a file", f"{downloader.how}; not read", run)
