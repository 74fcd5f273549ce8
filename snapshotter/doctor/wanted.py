"""What the node needs of a containerd, and how findings about one are headed."""

from __future__ import annotations

from dataclasses import dataclass

from snapshotter.doctor.finding import run

PART = "containerd"
RESTART = run("systemctl restart containerd")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the node needs, from the daemon's configuration and the machine."""

    address: str
    """The daemon's gRPC socket."""
    root: str
    architecture: str
    """As containerd names it: ``amd64``."""
    pinned: str
    """``[mirror] pinned``."""
    mirrored: frozenset[str]
    """Directories of hosts.toml files of which one names the mirror."""
