"""Which open files the kernel may read by itself: bookkeeping, no I/O.

Linux has one I/O mode for each nodeid (fs/fuse/iomode.c): while it is open through
the page cache an open with passthrough fails, and the other way round. So a nodeid
that somebody holds the slow way stays slow until it is closed, and a file that has
become complete meanwhile needs a second nodeid for those who open it next.
"""

from __future__ import annotations

import threading
from collections import Counter


class IoModes:
    """Counts opens by nodeid. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cached: Counter[int] = Counter()
        self._passthrough: Counter[int] = Counter()

    def open(self, nodeid: int, *, ready: bool) -> bool:
        """One more open of ``nodeid``; whether it is to be with passthrough.

        ``ready``: the backing file may be read by the kernel.
        """
        with self._lock:
            passthrough = self._passthrough[nodeid] > 0 or (ready and self._cached[nodeid] == 0)
            (self._passthrough if passthrough else self._cached)[nodeid] += 1
            return passthrough

    def release(self, nodeid: int) -> None:
        with self._lock:
            counts = self._passthrough if self._passthrough[nodeid] else self._cached
            counts[nodeid] -= 1
            if counts[nodeid] <= 0:
                del counts[nodeid]

    def cached(self, nodeid: int) -> bool:
        """Whether somebody holds ``nodeid`` open through the page cache."""
        with self._lock:
            return self._cached[nodeid] > 0
