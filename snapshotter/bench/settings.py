"""What a run of the benchmark is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything has a default."""

    size: int = 512 * MIB
    """Bytes of the weights of each model that is made."""
    rtts: tuple[float, ...] = (0.0, 0.02, 0.1)
    """Round trips in seconds."""
    rate: int = 0
    """Bytes per second that the forwarder lets through; 0: as fast as it can."""
    repeat: int = 3
    """Runs of every contender."""
    reference: str = ""
    """A model in a registry of yours, instead of those that are made."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration of the node under test, as in the daemon's file."""
    directory: Path | None = None
    """Where models and caches are put; a temporary directory below it is made and removed."""
    registry_program: str = ""
    """Path of docker-registry; empty: the one on PATH, else our own range server."""
    containerd: str = ""
    """Socket of a containerd for the baseline; empty: the usual one where there is one."""
    against: tuple[str, ...] = ()
    """Further snapshotters of that containerd."""

    def describe(self) -> dict[str, Any]:
        """For the reports."""
        return {
            "size_bytes": self.size,
            "rtt_seconds": list(self.rtts),
            "rate_bytes_per_second": self.rate,
            "repeat": self.repeat,
            "reference": self.reference,
            "config": self.config,
            "against": list(self.against),
        }
