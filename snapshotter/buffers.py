"""Memory to receive many bytes in, placed so that the kernel copies into it at full speed.

A large bytearray lies 16 bytes behind the beginning of a page: that is where the allocator
puts its data. Pages of files begin at the beginning of one. On an AMD EPYC the kernel's copies
are slow where the target lies 16 bytes behind the source modulo 4096, and of 15 distances only
there: reading a file from memory took 0.4 s for each GiB, at any other 0.08 s.
"""

from __future__ import annotations

import mmap
import threading


def page_aligned(size: int) -> memoryview:
    """``size`` bytes of zeros, at least one, that begin with a page of memory.

    For buffers that are kept and used again: making one is a system call.
    """
    if size < 1:
        raise ValueError(f"a buffer of {size} bytes")
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class ThreadBuffer:
    """A buffer for each thread that asks for one, made at its first call."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._local = threading.local()

    def get(self) -> memoryview:
        """The one of this thread; what was in it is gone when the same thread uses it again."""
        if not hasattr(self._local, "buffer"):
            self._local.buffer = page_aligned(self._size)
        buffer: memoryview = self._local.buffer
        return buffer
