"""Counting what is fetched."""

from __future__ import annotations

import threading
import time
from collections import deque

_WINDOW = 5.0


class FetchStats:
    """Totals since the start, and the current rate. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque()
        self._began = time.monotonic()
        self.fetched_bytes = 0
        """Bytes received from origins."""
        self.requests = 0
        """Ranges asked for."""
        self.hot_bytes = 0
        """Bytes that readers got from the buffers they arrived in, some time after they did."""
        self.right_chunks = 0
        """Chunks that were hashed and are what a trusted list says."""
        self.wrong_chunks = 0
        """Those that are not, and were dropped."""
        self.verified_blobs = 0
        """Blobs that were hashed whole and are right."""
        self.wrong_blobs = 0
        """Those that are not."""

    def count_request(self) -> None:
        with self._lock:
            self.requests += 1

    def count_hot(self, count: int) -> None:
        with self._lock:
            self.hot_bytes += count

    def count_chunk(self, *, right: bool) -> None:
        with self._lock:
            self.right_chunks += right
            self.wrong_chunks += not right

    def count_blob(self, *, right: bool) -> None:
        with self._lock:
            self.verified_blobs += right
            self.wrong_blobs += not right

    def count_bytes(self, count: int) -> None:
        now = time.monotonic()
        with self._lock:
            self.fetched_bytes += count
            # A few entries a second are as good as one for each piece.
            if self._recent and now - self._recent[-1][0] < _WINDOW / 50:
                self._recent[-1] = (self._recent[-1][0], self._recent[-1][1] + count)
            else:
                self._recent.append((now, count))
            self._forget(now)

    def rate(self) -> float:
        """Bytes per second over the last five seconds."""
        now = time.monotonic()
        with self._lock:
            self._forget(now)
            count = sum(count for _, count in self._recent)
            return count / max(0.1, min(_WINDOW, now - self._began))

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - _WINDOW:
            self._recent.popleft()
