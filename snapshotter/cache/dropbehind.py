"""Writing to a file what memory need not keep, as long as its disk keeps pace."""

from __future__ import annotations

import errno
import os
import time

RWF_DONTCACHE = 0x80
"""include/uapi/linux/fs.h, Linux 6.14: write back at once, and drop the pages then."""
SLOW = 8e-9
"""Seconds for each byte, on average over some writes, from which on the disk holds us up: 125 MB/s.

Who writes so waits for room in the disk's queue, where an ordinary write only makes pages dirty.
"""
PAUSE = 5.0
"""Seconds of ordinary writes before the disk is tried again."""
_TELLING = 256 << 10
"""Bytes of a write from which on its time says something of the disk."""


class DropBehind:
    """How one file is written. Not thread-safe."""

    def __init__(self) -> None:
        self._supported = True
        self._pace = 0.0
        self._not_before = 0.0

    def write(self, fd: int, data: memoryview, offset: int) -> int:
        """As pwrite(2); the written pages are dropped once the disk has them. Raises OSError."""
        began = time.monotonic()
        if not self._supported or began < self._not_before:
            return os.pwrite(fd, data, offset)
        try:
            count = os.pwritev(fd, (data,), offset, RWF_DONTCACHE)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self._supported = False  # a kernel or a file system that cannot
            return os.pwrite(fd, data, offset)
        self.took(count, began, time.monotonic())
        return count

    def took(self, count: int, began: float, now: float) -> None:
        """A write of ``count`` bytes went on from ``began`` to ``now``, in seconds."""
        if count < _TELLING:
            return
        self._pace += ((now - began) / count - self._pace) / 8
        if self._pace > SLOW:
            self._not_before, self._pace = now + PAUSE, 0.0
