"""Fifty models, a thousand readers at once, and a registry that fails or takes its time."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.harness import faults
from integration.harness.faults import FaultyRegistry
from integration.harness.machine import Machine
from integration.harness.node import Node
from integration.harness.registry import Registry
from integration.models_small import WEIGHTS, SmallModel, push_small

MODELS = 50
READERS = 20
"""Of each model."""
DELAY = 10
"""Seconds until the registry answers each request for bytes."""
CONNECTIONS = 8
CONFIGURATION = {
    "registry": {"breaker_pause": 0.1, "breaker_max_pause": 0.2},
    "fetch": {
        "connections": CONNECTIONS,
        "read_deadline": 8,
        "first_backoff": 0.05,
        "max_backoff": 0.2,
        "background": False,
    },
}
PATIENT = {
    "fetch": {"connections": CONNECTIONS, "background": False},
    "mounts": {"prefetch": False},  # so that every byte is asked for while the registry is slow
}

READER = """
import hashlib, json, sys, threading
threading.stack_size(256 << 10)
found = {}
def read(number, path):
    try:
        with open(path, "rb", buffering=0) as file:
            found[number] = path, hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        found[number] = path, error.strerror
threads = [threading.Thread(target=read, args=each) for each in enumerate(json.load(sys.stdin))]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(list(found.values())))
"""


@dataclass
class Most:
    """The most that the node had at any time."""

    threads: int = 0
    descriptors: int = 0
    anonymous: int = 0

    def look(self, pid: int) -> None:
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        self.threads = max(self.threads, int(status["Threads"]))
        self.anonymous = max(self.anonymous, int(status["RssAnon"].split()[0]) << 10)
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        self.descriptors = max(self.descriptors, descriptors)

    def is_bounded(self, proxy: FaultyRegistry) -> None:
        """By the mounts and the connections, whatever the number of readers."""
        assert 0 < self.threads <= 4 * MODELS + CONNECTIONS + 20
        assert self.descriptors <= 12 * MODELS + 100
        assert self.anonymous <= 256 << 20
        assert proxy.most_connections <= CONNECTIONS + 2


def watched(pid: int, act: Callable[[], list[list[str]]]) -> tuple[list[list[str]], Most]:
    """What ``act`` gives, and the most the process had meanwhile."""
    most, over = Most(), threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            most.look(pid)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        return act(), most
    finally:
        over.set()
        watcher.join()


@pytest.fixture
def models(registry: Registry, tmp_path: Path) -> list[SmallModel]:
    with ThreadPoolExecutor(4) as pool:
        return list(
            pool.map(
                lambda number: push_small(tmp_path, registry.host, f"m{number}", size=128 << 10),
                range(MODELS),
            )
        )


def mounted(node: Node, proxy: FaultyRegistry, models: list[SmallModel]) -> dict[str, str]:
    """Each model's weights, and the sha256 they have."""
    return {str(node.mount(model.at(proxy.host)) / WEIGHTS): model.sha256 for model in models}


def test_a_storm_of_readers_of_a_registry_that_fails_stays_bounded(
    machine: Machine, registry: Registry, models: list[SmallModel], tmp_path: Path
) -> None:
    with FaultyRegistry(registry.host) as proxy, Node(machine, CONFIGURATION) as node:
        sums = mounted(node, proxy, models)
        before = len(node.events())
        proxy.fault(faults.status(503))
        found, most = watched(node.pid, lambda: read_all(machine, sums, tmp_path))
        assert [result for _, result in found] == ["Input/output error"] * (MODELS * READERS)
        assert len(node.events()) - before <= 50  # of a thousand reads that failed
        most.is_bounded(proxy)


@pytest.mark.timeout(300)
def test_a_storm_of_readers_of_a_registry_that_answers_after_ten_seconds_stays_bounded(
    machine: Machine, registry: Registry, models: list[SmallModel], tmp_path: Path
) -> None:
    with FaultyRegistry(registry.host) as proxy, Node(machine, PATIENT) as node:
        sums = mounted(node, proxy, models)
        before = len(node.events())
        proxy.fault(faults.slow(DELAY))
        found, most = watched(node.pid, lambda: read_all(machine, sums, tmp_path))
        assert len(found) == MODELS * READERS
        assert all(result == sums[path] for path, result in found)
        assert len(node.events()) - before <= 10
        most.is_bounded(proxy)
        asked = len(proxy.asked(faults.BLOBS))
        assert asked <= 3 * MODELS  # however many readers there are
        print(f"\n{most}, {asked} requests, {proxy.most_connections} connections")


def read_all(machine: Machine, paths: Iterable[str], directory: Path) -> list[list[str]]:
    """Each path in so many threads, all at once: path, and its sha256 or what went wrong."""
    asked = directory / "paths.json"
    asked.write_text(json.dumps([path for path in paths for _ in range(READERS)]))
    program = directory / "reader.py"
    program.write_text(READER)
    command = f"exec {sys.executable} {program} < {asked}"
    found: list[list[str]] = json.loads(machine.run(["sh", "-c", command], seconds=280).stdout)
    return found
