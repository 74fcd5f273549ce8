"""What is measured: names, units, which way is better, and how people write the numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from snapshotter.bench.statistics import percentile
from snapshotter.units import format_size

Better = Literal["more", "less", "one"]


@dataclass(frozen=True, slots=True)
class Measure:
    """A quantity every sample of a trial has."""

    key: str
    title: str
    unit: Literal["B", "B/s", "s", "x", "1", "flag"]
    better: Better
    """``one``: 1.00 is perfect, as for bytes fetched of bytes needed."""
    short: str
    """For a list of several, ``{}`` stands for the value."""

    def format(self, value: float) -> str:
        return format_value(value, self.unit)

    def phrase(self, value: float) -> str:
        """``fetched 1.00 x``."""
        return self.short.format(self.format(value))


_ALL = (
    Measure("seconds", "time", "s", "less", "in {}"),
    Measure("rate", "throughput", "B/s", "more", "{}"),
    Measure("beyond_two_rtts", "time beyond two round trips", "s", "less", "2 rtt + {}"),
    Measure("latency", "median latency", "s", "less", "median {}"),
    Measure("latency_p90", "latency, 90th percentile", "s", "less", "p90 {}"),
    Measure("latency_p99", "latency, 99th percentile", "s", "less", "p99 {}"),
    Measure("beyond_rtt", "median latency beyond one round trip", "s", "less", "rtt + {}"),
    Measure("round_trip", "round trip as measured", "s", "less", "round trip {}"),
    Measure("needed_bytes", "bytes needed", "B", "less", "needed {}"),
    Measure("fetched_ratio", "bytes fetched / needed", "x", "one", "fetched {} x"),
    Measure("fetched_bytes", "bytes fetched", "B", "less", "fetched {}"),
    Measure("fetched_each", "bytes fetched for each read", "B", "less", "{} each"),
    Measure("requests", "ranged requests", "1", "less", "{} requests"),
    Measure("calls", "calls", "1", "more", "{} calls"),
    Measure("bytes", "bytes read", "B", "more", "read {}"),
    Measure("cpu_per_gib", "CPU for each GiB", "s", "less", "CPU {}/GiB"),
    Measure("user_per_gib", "user CPU for each GiB", "s", "less", "user {}/GiB"),
    Measure(
        "user_unverified",
        "user CPU for each GiB, without verification",
        "s",
        "less",
        "user without verification {}/GiB",
    ),
    Measure("system_per_gib", "system CPU for each GiB", "s", "less", "system {}/GiB"),
    Measure("reader_per_gib", "the reader's own CPU for each GiB", "s", "less", "reader {}/GiB"),
    Measure("rss_anon", "anonymous memory, peak", "B", "less", "RssAnon {}"),
    Measure("switches_per_gib", "voluntary switches for each GiB", "1", "less", "{} switches/GiB"),
    Measure("passthrough", "passthrough", "flag", "more", "passthrough {}"),
    Measure("download_seconds", "of which download", "s", "less", "download {}"),
)
MEASURES = {measure.key: measure for measure in _ALL}


LATENCIES = ("latency", "latency_p90", "latency_p99")


def latencies_of(seconds: Sequence[float]) -> dict[str, float]:
    """:data:`LATENCIES` of ``seconds``, of which there must be some."""
    ordered = sorted(seconds)
    shares = (0.5, 0.9, 0.99)
    return {key: percentile(ordered, share) for key, share in zip(LATENCIES, shares, strict=True)}


def format_value(value: float, unit: str) -> str:
    """For tables: three digits that say something, with their unit."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞"
    if unit == "s":
        return format_seconds(value)
    if unit == "B/s":
        return f"{format_size(value)}/s"
    if unit == "B":
        return format_size(value)
    if unit == "flag":
        return "yes" if value else "no"
    if unit == "x":
        return f"{value:.2f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def format_seconds(value: float) -> str:
    """``0.00123`` -> ``"1.23 ms"``."""
    size = abs(value)
    if size < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if size < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.2f} s" if size < 100 else f"{value:.0f} s"


def format_rtt(value: float) -> str:
    """``0.02`` -> ``"20 ms"``: as it was asked for."""
    return f"{value * 1000:g} ms"


def format_times(value: float) -> str:
    """A ratio: ``"1.32 x"``."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "∞"
    return f"{value:.2f} x" if value < 10 else f"{value:.0f} x"
