"""A node in a process of its own: the daemon's rooms up to mounts, and nothing of containerd.

Told to mount a model, and asked what it fetched and what that cost this process. The argument
is the configuration as JSON, in the words of the configuration file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from snapshotter.api import rss_anon
from snapshotter.bench.children.talk import answer_all
from snapshotter.cache.blob import Blob
from snapshotter.cache.documents import Documents
from snapshotter.cache.store import BlobStore
from snapshotter.config import Config, parse_config
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.images.resolve import resolve_model
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.serving import Serving
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference

_VERIFIER = "modelpack-verify"


class Node:
    """As `snapshotter.daemon` puts the rooms together, less what containerd needs."""

    def __init__(self, config: Config, stack: ExitStack) -> None:
        root = Path(config.root)
        self._mounts = Path(config.state) / "mounts"
        self._options = config.mounts
        self._stack = stack
        self.registry = Registry(config.registry)
        stack.callback(self.registry.close)
        store = BlobStore(root / "cache", config.cache)
        stack.callback(store.close)
        self.serving: list[Serving] = []
        self.fetcher = Fetcher(config.fetch, on_verified=self._verified, on_bad=self._condemned)
        stack.callback(self.fetcher.close)
        self.documents = Documents(root / "documents")
        self.loader = Loader(self.registry, self.documents, store, self.fetcher)

    def _verified(self, blob: Blob) -> None:
        for serving in self.serving:
            serving.verified(blob)

    def _condemned(self, blob: Blob) -> None:
        for serving in self.serving:
            serving.condemned(blob)

    def answer(self, told: dict[str, Any]) -> dict[str, Any]:
        if "meet" in told:
            # What a pull has done a moment before, so that there are connections.
            resolve_model(Reference.parse(told["meet"]), self.registry)
            return {}
        if "mount" in told:
            return self._mount(told["mount"])
        return self._stats()

    def _mount(self, reference: str) -> dict[str, Any]:
        started = time.monotonic()
        ref, manifest = resolve_model(Reference.parse(reference), self.registry)
        self.documents.put(ref.digest, manifest.raw)
        model = self.loader.load(ref)
        self._stack.callback(self.loader.unload, model)
        directory = self._mounts / str(len(self.serving))
        directory.mkdir(parents=True)
        serving = Serving(
            model, directory, self.fetcher, self._options, allow_other=os.geteuid() == 0
        )
        self._stack.callback(serving.stop)
        self._stack.callback(serving.detach)
        self.serving.append(serving)
        return {"directory": str(directory), "started": started, "ended": time.monotonic()}

    def _stats(self) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "fetched_bytes": self.fetcher.stats.fetched_bytes,
            "requests": self.fetcher.stats.requests,
            "models": [serving.describe() for serving in self.serving],
            "user": usage.ru_utime,
            "system": usage.ru_stime,
            "verifying": _user_seconds(_VERIFIER),
            "switches": usage.ru_nvcsw,
            "rss_anon": rss_anon(),
        }


def _user_seconds(name: str) -> float:
    """User CPU of our thread ``name``: ``utime`` of proc_pid_stat(5)."""
    for thread in threading.enumerate():
        if thread.name == name:
            text = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
            return int(text.rpartition(")")[2].split()[11]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def main() -> None:
    config = parse_config(json.loads(sys.argv[1]), "configuration of the benchmark's node")
    with ExitStack() as stack:
        node = Node(config, stack)
        answer_all(node.answer)


if __name__ == "__main__":
    main()
