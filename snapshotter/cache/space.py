"""How much of the disk the cache takes, and how much it may.

What it takes is counted while bytes arrive and put right by each look at the disk;
what it may take follows from the quota and from what others left free.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from snapshotter.cache.errors import CacheFull
from snapshotter.cache.options import CacheOptions
from snapshotter.units import format_size

_LOOK = 32 << 20
"""Bytes that arrive between two looks at what is free."""


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Bytes, as statvfs(3) has them for those who are not root."""

    total: int
    free: int


def file_system(path: Path) -> FileSystem:
    found = os.statvfs(path)
    return FileSystem(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)


def allowance(options: CacheOptions, used: int, disk: FileSystem) -> int:
    """What the cache may take in all, when it takes ``used`` now. Bytes, 0 or more. Pure."""
    room = disk.free - options.keep_free.of(disk.total)
    return max(0, min(options.quota.of(disk.total), used + room))


class Space:
    """Counts, and refuses what is too much. Thread-safe.

    ``on_pressure`` is called, from whoever writes, when the high water mark is passed.
    """

    def __init__(
        self,
        root: Path,
        options: CacheOptions,
        used: int,
        on_pressure: Callable[[], None] = lambda: None,
        look: Callable[[Path], FileSystem] = file_system,
    ) -> None:
        self._root = root
        self._options = options
        self._on_pressure = on_pressure
        self._look = look
        self._lock = threading.Lock()
        self._used = used
        self._unseen = 0
        self._allowed = allowance(options, used, look(root))

    @property
    def used(self) -> int:
        return self._used

    @property
    def allowed(self) -> int:
        return self._allowed

    def admit(self, count: int) -> None:
        """Raises :class:`CacheFull` when ``count`` more bytes are too many."""
        if self._used + count > self._allowed:
            self._on_pressure()
            raise CacheFull(
                f"the cache {self._root} may take {format_size(self._allowed)} of the disk and has "
                f"{format_size(self._used)}: raise quota or lower keep_free in [cache], unpin "
                "models, or run modelpack gc --all"
            )

    def arrived(self, count: int) -> None:
        with self._lock:
            self._used += count
            self._unseen += count
            due = self._unseen >= _LOOK
        if due:
            self.measured(self._used)
        if self._used > self._allowed * self._options.high_water:
            self._on_pressure()

    def measured(self, used: int) -> None:
        """``used`` is what the blobs take by the file system's own account."""
        disk = self._look(self._root)
        with self._lock:
            self._used, self._unseen = used, 0
            self._allowed = allowance(self._options, used, disk)

    def excess(self) -> int:
        """Bytes to give back: 0 below the high water mark, otherwise down to the low one."""
        with self._lock:
            if self._used <= self._allowed * self._options.high_water:
                return 0
            return self._used - int(self._allowed * self._options.low_water)
