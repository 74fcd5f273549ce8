"""A small model for tests, in a registry, and the daemon that shows it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.harness.configuration import write_hosts
from integration.harness.containerd import Release
from integration.harness.model import write_model
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter

SIZE = 24 << 20


@dataclass(frozen=True)
class PushedModel:
    """A model in a registry."""

    tag: str
    """Its reference by tag."""
    digest: str
    """Its reference by digest."""
    source: Path

    @property
    def sums(self) -> dict[str, str]:
        """Path to sha256 of every file."""
        files = [path for path in self.source.rglob("*") if path.is_file()]
        return {
            str(path.relative_to(self.source)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        }


def push_model(
    snapshotter: Snapshotter,
    registry: Registry,
    *,
    name: str = "models/test",
    tag: str = "1",
    tar: bool = False,
    seed: int = 1,
) -> PushedModel:
    """Build a model and push it, the way a user does; one of other weights with another seed."""
    source = snapshotter.machine.root / ("model" if seed == 1 else f"model-{seed}")
    if not source.exists():
        write_model(source, SIZE, seed=seed)
    tagged = f"{registry.host}/{name}:{tag}"
    built = snapshotter.modelpack("build", str(source), "-t", tagged, *(["--tar"] if tar else []))
    digest = built.strip().splitlines()[-1]
    snapshotter.modelpack("push", tagged)
    write_hosts(snapshotter.places, registry.host)
    return PushedModel(tagged, f"{registry.host}/{name}@{digest}", source)


def suited(release: Release) -> dict[str, Any]:
    """What the daemon is told beside the sample: pinned pulls pass where layer_types hold them."""
    return {"mirror": {"pinned": "pass"}} if release.has_image_volumes else {}


def read_sums(listing: str, directory: str) -> dict[str, str]:
    """What sha256sum printed of the files below ``directory``."""
    rows = (line.split(maxsplit=1) for line in listing.splitlines())
    return {path.removeprefix(f"{directory}/"): digest for digest, path in rows}


def sums_command(directory: str) -> str:
    return f"find {directory} -type f -exec sha256sum {{}} +"
