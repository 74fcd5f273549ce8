"""A node's rooms up to mounts, and the model its tests read."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from snapshotter.cache.documents import Documents
from snapshotter.cache.store import BlobStore
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.table import Mounts
from snapshotter.registry.client import Registry

SHARD = os.urandom(3 << 20) + b"the end"
FILES = {
    "config.json": b'{"model_type": "test"}',
    "empty.txt": b"",
    "shards/model.safetensors": SHARD,
    "run.py": b"print('hello')\n",
}


@dataclass
class Node:
    """A node's rooms up to mounts, over a registry that can be taken away."""

    registry: Registry
    documents: Documents
    store: BlobStore
    fetcher: Fetcher
    loader: Loader
    mounts: Mounts


def shell(command: str) -> subprocess.CompletedProcess[bytes]:
    """In a process of its own: reading our own mount would wait for ourselves."""
    return subprocess.run(["sh", "-c", command], capture_output=True, check=False, timeout=60)
