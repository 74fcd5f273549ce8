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

_PIECE = 1 << 20
"""Bytes that come at a time, more or less."""
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
    """Counts, and refuses what is too much. Thread-safe. Raises OSError when made.

    :attr:`on_pressure` is called, from whoever writes, when the high water mark is passed.
    """

    def __init__(
        self,
        root: Path,
        options: CacheOptions,
        used: int,
        look: Callable[[Path], FileSystem] = file_system,
    ) -> None:
        self.on_pressure: Callable[[], None] = lambda: None
        self._root = root
        self._options = options
        self._look = look
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._used = used
        self._taken = self._pending = 0
        """Bytes that were ever taken, and those of them that are just being written."""
        self._twice = 0
        """Of what is used: bytes that the latest measurement may have counted twice."""
        self._unseen = 0
        self._short = 0
        """Bytes of the largest piece that was refused since somebody asked."""
        self._may = allowance(options, used, look(root))
        """What it may take in all, from the last look on: asked for with every piece."""

    @property
    def used(self) -> int:
        """Bytes that blobs and unpacked layers take."""
        return self._used

    @property
    def allowed(self) -> int:
        """Bytes that they may take."""
        with self._lock:
            return self._may

    @property
    def plenty(self) -> bool:
        """Below the high water mark: there is room for what nobody waits for."""
        with self._lock:
            return self._used + _PIECE <= self._mark(self._options.high_water)

    def take(self, count: int) -> None:
        """Raises :class:`CacheFull` when ``count`` more bytes are too many."""
        with self._lock:
            fits = self._fits(count)
            if fits:
                self._count(count)
                self._look_again(self._unseen >= _LOOK)
            else:
                self._short = max(self._short, count)
            pressed = not fits or self._used > self._mark(self._options.high_water)
        if pressed:
            self.on_pressure()
        if not fits:
            raise self._full()

    def take_later(self, count: int, patience: float) -> None:
        """As `take`, but wait up to ``patience`` seconds for room to be made."""
        with self._lock:
            fits = self._fits(count)
            if not fits:
                self._short = max(self._short, count)
                self.on_pressure()
                fits = self._changed.wait_for(lambda: self._fits(count), patience)
            if fits:
                self._count(count)
        if not fits:
            raise self._full()

    def settle(self, count: int, *, unused: int = 0) -> None:
        """``count`` bytes that were taken are written now, but for those ``unused``."""
        with self._lock:
            self._pending -= count
            self._used = max(0, self._used - unused)

    def give_back(self, count: int) -> None:
        """``count`` bytes are not used any more."""
        with self._lock:
            self._used = max(0, self._used - count)
            self._changed.notify_all()

    def refused(self) -> None:
        """The disk is full, whatever we thought."""
        with self._lock:
            self._short = max(self._short, 1)
            self._look_again(True)
        self.on_pressure()

    def measure(self, look: Callable[[], int]) -> None:
        """``look`` says what the cache takes by the file system's own account; slow.

        What is written meanwhile counts on top of it, if need be twice until the next look.
        """
        with self._lock:
            settled = self._taken - self._pending
        used = look()
        with self._lock:
            self._twice = self._taken - settled
            self._used = used + self._twice
            self._look_again(True)
            self._changed.notify_all()

    def excess(self) -> int:
        """Bytes to give back: 0 below the high water mark, otherwise down to the low one; more
        when what was refused would not fit even then."""
        with self._lock:
            if self._used <= self._mark(self._options.high_water) and not self._short:
                return 0
            lacking = self._used + self._short - self._may if self._short else 0
            return max(0, self._used - self._mark(self._options.low_water), lacking)

    def shortage(self) -> bool:
        """Whether bytes were refused since this was asked last, or the cache takes too much:
        then also what mounted models have must go."""
        with self._lock:
            short, self._short = self._short, 0
            return short > 0 or self._used - self._twice > self._may

    def _count(self, count: int) -> None:
        self._used += count
        self._taken += count
        self._pending += count
        self._unseen += count

    def _mark(self, share: float) -> int:
        return int(self._may * share)

    def _fits(self, count: int) -> bool:
        return self._used + count <= self._may

    def _look_again(self, due: bool) -> None:
        if due:
            self._may = allowance(self._options, self._used, self._look(self._root))
            self._unseen = 0

    def _full(self) -> CacheFull:
        return CacheFull(
            f"the cache {self._root} may take {format_size(self.allowed)} of the disk and has "
            f"{format_size(self._used)}: raise quota or lower keep_free in [cache], or unpin models"
        )
