"""Models of one weights file with bytes of its own, pushed without a program's start for each."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from snapshotter.pack.build import build
from snapshotter.pack.push import push
from snapshotter.pack.record import BuildStore
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class SmallModel:
    repository: str
    digest: str
    sha256: str
    """Of the weights."""

    def at(self, registry: str) -> str:
        """Its reference when ``registry`` is asked for it."""
        return f"{registry}/{self.repository}@{self.digest}"


def push_small(directory: Path, registry: str, name: str, *, size: int = 1 << 20) -> SmallModel:
    """Push a model with ``size`` random bytes of weights to ``registry``."""
    source = directory / name
    source.mkdir(parents=True)
    weights = os.urandom(size)
    (source / WEIGHTS).write_bytes(weights)
    (source / "config.json").write_text('{"model_type": "test"}')
    reference = Reference.parse(f"{registry}/small/{name}:1")
    store = BuildStore(directory / f"{name}-builds")
    built = build(source, reference, store)
    client = Registry(RegistryOptions(certs_d=()))
    try:
        push(reference, store, client)
    finally:
        client.close()
    return SmallModel(f"small/{name}", built.digest, hashlib.sha256(weights).hexdigest())
