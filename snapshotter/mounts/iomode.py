"""Which open files the kernel may read by itself: bookkeeping, no I/O.

Linux has one I/O mode for each nodeid (fs/fuse/iomode.c): while it is open through
the page cache an open with passthrough fails, and the other way round; and all opens
with passthrough must name the same backing id. So a nodeid that somebody holds the
slow way stays slow until it is closed, and a file that has become complete meanwhile
needs a second nodeid for those who open it next.

A process that takes a mount over does not know who closed what while nobody served. What
the ledger says was open, it takes to be open for ever.
"""

from __future__ import annotations

import threading
from collections import Counter

from fuse.tree import RENEWED
from snapshotter.mounts.ledger import CACHED, GIVEN, UNUSED, Ledger, backing_of, closed


class IoModes:
    """Counts opens by nodeid. Thread-safe."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._lock = threading.Lock()
        self._ledger = ledger
        self._cached: Counter[int] = Counter()
        self._passthrough: Counter[int] = Counter()

    def inherit(self, nodeid: int, recorded: int) -> None:
        """Of an earlier life: what the ledger has of ``nodeid``."""
        if recorded > 0:
            self._passthrough[nodeid] += 1
        elif recorded == CACHED:
            self._cached[nodeid] += 1

    def open(self, nodeid: int, *, ready: int) -> bool:
        """One more open of ``nodeid``; whether it is to be with passthrough.

        ``ready``: the backing id with which the kernel may read the file, or 0.
        """
        with self._lock:
            passthrough = self._passthrough[nodeid] > 0 or (
                ready != 0 and self._cached[nodeid] == 0
            )
            counts = self._passthrough if passthrough else self._cached
            counts[nodeid] += 1
            if self._ledger is not None and counts[nodeid] == 1:
                self._ledger[nodeid] = ready if passthrough else CACHED
            return passthrough

    def release(self, nodeid: int) -> None:
        with self._lock:
            counts = self._passthrough if self._passthrough[nodeid] else self._cached
            counts[nodeid] -= 1
            if counts[nodeid] <= 0:
                del counts[nodeid]
                if self._ledger is None:
                    return
                backing = backing_of(self._ledger[nodeid])
                if counts is self._passthrough and backing:
                    # A backing id is good as long as the mount, and the next one would be
                    # another.
                    self._ledger[nodeid] = closed(backing)
                else:
                    self._ledger[nodeid] = GIVEN if nodeid & RENEWED else UNUSED

    def passthrough(self, nodeid: int) -> bool:
        """Whether somebody holds ``nodeid`` open with passthrough, as far as is known."""
        with self._lock:
            return self._passthrough[nodeid] > 0

    def cached(self, nodeid: int) -> bool:
        """Whether somebody holds ``nodeid`` open through the page cache."""
        with self._lock:
            return self._cached[nodeid] > 0
