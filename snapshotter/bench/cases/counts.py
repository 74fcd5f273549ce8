"""Cases whose point is how much is fetched: many readers, lone reads, a few tensors."""

from __future__ import annotations

from snapshotter.bench.case import Case, Contender, Plan, Sample, Trial
from snapshotter.bench.contenders import OURS, alone, sample_of, through_mount
from snapshotter.bench.downloads import local
from snapshotter.bench.measures import LATENCIES, format_rtt, latencies_of
from snapshotter.bench.models import read_tensors
from snapshotter.bench.patterns import (
    Streams,
    scattered,
    some_layers,
    some_tensors,
    total,
    whole,
)
from snapshotter.bench.published import Published
from snapshotter.bench.reading import Job, read
from snapshotter.bench.settings import MIB
from snapshotter.bench.stage import Stage
from snapshotter.units import format_size

_PROCESSES = (2, 4, 8)
_LONE_READS = 50
_PAGE = 4096
_SHARE = 0.05
_NO_BACKGROUND = {"fetch": {"background": False}}


def _shared(stage: Stage) -> Plan:
    model = stage.single()
    file = model.largest
    job = Job(whole([file.size]), block=MIB)
    return Plan(
        [
            Trial(
                f"{processes} processes",
                "fetched_ratio",
                [
                    through_mount(
                        stage, model, [file], job, processes=processes, config=alone(model)
                    )
                ],
                also=("seconds", "rate", "fetched_bytes", "requests", "rss_anon"),
                group="one cold file",
            )
            for processes in _PROCESSES
        ],
        notes=["Throughput counts what all processes read together."],
    )


def _random(stage: Stage) -> Plan:
    model = stage.single()
    rtts = stage.settings.rtts if model.loopback else (0.0,)
    return Plan(
        [
            Trial(
                f"round trip {format_rtt(rtt)}",
                "beyond_rtt",
                [_lone_reads(stage, model, rtt)],
                also=(*LATENCIES, "round_trip", "fetched_each", "requests"),
                group="4 KiB at random",
                rtt=rtt,
            )
            for rtt in rtts
        ]
    )


def _lone_reads(stage: Stage, model: Published, rtt: float) -> Contender:
    file = model.largest
    job = Job(scattered(file.size, _PAGE, _LONE_READS), block=_PAGE, latencies=True)

    def run() -> Sample:
        with stage.node(_NO_BACKGROUND) as node:
            directory = node.mount(stage.reference(model, rtt))
            with node.cost() as cost:
                reading = read([directory / file.path], job)
        sample = sample_of(reading, reading.started)
        sample.measures |= latencies_of(reading.latencies)
        sample.measures["beyond_rtt"] = sample.measures["latency"] - rtt
        if model.loopback:
            sample.measures["round_trip"] = stage.round_trip(model, rtt)
        sample.measures |= cost.measures(reading.bytes)
        sample.measures["fetched_each"] = cost.fetched_bytes / len(reading.latencies)
        return sample

    how = f"{_LONE_READS} reads of 4 KiB at random places, one after the other; background off"
    return Contender(OURS, how, run, ours=True)


def _sparse(stage: Stage) -> Plan:
    model = stage.decoder()
    files = [file for file in model.weights if file.path.endswith(".safetensors")]
    tensors = [read_tensors(local(stage, model, file)) for file in files]
    chosen = {
        "whole layers": some_layers(tensors, _SHARE),
        "scattered tensors": some_tensors(tensors, _SHARE),
    }

    def trial(name: str, streams: Streams, *, mapped: bool) -> Trial:
        job = Job(streams, block=MIB, mapped=mapped)
        return Trial(
            f"{name}, {'mapped' if mapped else 'by read'}",
            "fetched_ratio",
            [through_mount(stage, model, files, job, config=_NO_BACKGROUND)],
            also=("needed_bytes", "fetched_bytes", "requests", "seconds"),
            group="a few tensors",
        )

    count = sum(map(len, tensors))
    return Plan(
        [
            trial(name, streams, mapped=mapped)
            for name, streams in chosen.items()
            for mapped in (False, True)
        ],
        notes=[
            f"{name.capitalize()}: {len(streams[0])} of {count} tensors, "
            f"{format_size(total(streams))} of {format_size(sum(file.size for file in files))}."
            for name, streams in chosen.items()
        ],
    )


SHARED = Case(
    "shared",
    "Several processes on one cold file",
    "2, 4 and 8 processes read the same file at the same time, as ranks of tensor parallelism do",
    "none: bytes fetched / file size must be 1.00",
    _shared,
)

RANDOM_4K = Case(
    "random-4k",
    "Lone reads of 4 KiB, cold",
    "reads of 4 KiB at random places, background completion off, at every round trip",
    "one round trip; bytes fetched for each read",
    _random,
)

SPARSE = Case(
    "sparse",
    "A few tensors of many",
    "5 % of the tensors of a decoder, as whole layers and scattered, by read and by page faults, "
    "background completion off",
    "none: bytes fetched / needed must be close to 1",
    _sparse,
)
