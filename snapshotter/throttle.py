"""So that a storm does not fill the disk with its description: one log line per kind and time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

PERIOD = 10.0
"""Seconds in which events of one kind get one line."""
_KINDS = 1024


class Throttle:
    """Says which events are worth a line, and how many had none since the last. Thread-safe."""

    def __init__(self, period: float = PERIOD, clock: Callable[[], float] = time.monotonic) -> None:
        self._period = period
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def admit(self, kind: Hashable) -> int | None:
        """Count an event. None: no line for it; else how many of its kind were kept back before."""
        now = self._clock()
        with self._lock:
            since, kept_back = self._kinds.get(kind, (-self._period, 0))
            if now - since < self._period:
                self._kinds[kind] = since, kept_back + 1
                return None
            self._kinds.pop(kind, None)
            self._kinds[kind] = now, 0
            if len(self._kinds) > _KINDS:
                del self._kinds[next(iter(self._kinds))]
            return kept_back
