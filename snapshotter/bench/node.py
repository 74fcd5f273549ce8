"""The node under test, from outside: mount, ask, and what it cost while something ran."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from snapshotter.bench.errors import BenchError
from snapshotter.bench.process import Child, Watch, rss_anon_of
from snapshotter.bench.settings import GIB

_RSS_INTERVAL = 0.05
_FILL_SECONDS = 600.0


@dataclass(slots=True)
class Cost:
    """Of the node's process, between two moments."""

    user: float = 0.0
    system: float = 0.0
    verifying: float = 0.0
    """User CPU seconds of hashing, part of ``user``."""
    switches: int = 0
    rss_anon: int = 0
    fetched_bytes: int = 0
    requests: int = 0

    def measures(self, needed: int) -> dict[str, float]:
        """As measures of a sample; ``needed``: bytes that its readers wanted at least once."""
        gib = max(needed, 1) / GIB
        return {
            "needed_bytes": needed,
            "fetched_bytes": self.fetched_bytes,
            "fetched_ratio": self.fetched_bytes / max(needed, 1),
            "requests": self.requests,
            "user_per_gib": self.user / gib,
            "user_unverified": (self.user - self.verifying) / gib,
            "system_per_gib": self.system / gib,
            "cpu_per_gib": (self.user + self.system) / gib,
            "switches_per_gib": self.switches / gib,
            "rss_anon": self.rss_anon,
        }


class Node:
    """A running :mod:`snapshotter.bench.children.node`."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.mount_started = self.mount_seconds = 0.0
        self.stats()  # it is up: what follows measures no imports

    @classmethod
    @contextmanager
    def start(cls, config: dict[str, Any]) -> Iterator[Self]:
        with Child("node", json.dumps(config)) as child:
            yield cls(child)

    def meet(self, reference: str) -> None:
        """Have connections to the registry of ``reference``."""
        self._child.ask(meet=reference)

    def mount(self, reference: str) -> Path:
        """Where the model's files are now."""
        answer = self._child.ask(mount=reference)
        self.mount_started = answer["started"]
        self.mount_seconds = answer["ended"] - answer["started"]
        return Path(answer["directory"])

    def stats(self) -> dict[str, Any]:
        return self._child.ask()

    @contextmanager
    def cost(self) -> Iterator[Cost]:
        """Filled in at the end of the ``with``."""
        cost = Cost()
        before = self.stats()
        with Watch(lambda: rss_anon_of(self._child.pid), _RSS_INTERVAL) as watch:
            yield cost
        after = self.stats()
        for name in ("user", "system", "verifying", "switches", "fetched_bytes", "requests"):
            setattr(cost, name, after[name] - before[name])
        cost.rss_anon = max(watch.seen)

    def wait_until_verified(self) -> None:
        """Until every byte of every mounted model is here and was hashed."""
        deadline = time.monotonic() + _FILL_SECONDS
        while any(model["state"] != "verified" for model in self.stats()["models"]):
            if time.monotonic() > deadline:
                raise BenchError(f"the model was not complete after {_FILL_SECONDS:.0f} s")
            time.sleep(0.05)
