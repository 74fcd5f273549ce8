"""Requests that were read and not answered, in memory that outlives the process.

Since Linux 6.9 the kernel sends such requests again when a successor asks for it. Before,
nobody knows of them any more: their callers would wait for ever, in a way that not even
SIGKILL ends. So there the session lets the kernel write requests right into memory that
somebody else holds too, a memfd for instance. A request is in it before the kernel takes
it for delivered, which leaves no moment at which a killed process could lose one.

The memory is an array of slots. The first field of a request is its length, never 0: so 0
there marks a slot that is free.
"""

from __future__ import annotations

import os
import struct
from collections import deque

from fuse.kernel import IN_HEADER, NEVER_ANSWERED

SLOT = 512
"""Bytes. All requests that a read-only file system answers with more than an error fit."""
_LENGTH = struct.Struct("I")
_FREE = _LENGTH.pack(0)


class Journal:
    """Slots in ``memory``, whose size is a multiple of :data:`SLOT`. Used by several threads
    at once; by one process at a time.

    More requests than slots are served too, but are not recorded.
    """

    def __init__(self, memory: memoryview, *, fresh: bool = False) -> None:
        """``fresh``: nobody has used the memory before, it is all zeros."""
        self._memory = memory
        numbers = range(len(memory) // SLOT)
        self._free: deque[int] = deque(numbers if fresh else ())
        self._taken: dict[int, int] = {}  # unique -> slot
        for number in () if fresh else numbers:
            slot = self._slot(number)
            (length,) = _LENGTH.unpack_from(slot)
            if length == 0:
                self._free.append(number)
            elif length < IN_HEADER.size:
                self._give_back(number)  # nothing the kernel wrote
            else:
                self._taken[IN_HEADER.unpack_from(slot)[2]] = number

    def unanswered(self) -> dict[int, bytes]:
        """The recorded requests by ``unique``. One that is longer than a slot comes cut."""
        found = {}
        for unique, number in self._taken.items():
            slot = self._slot(number)
            found[unique] = bytes(slot[: _LENGTH.unpack_from(slot)[0]])
        return found

    def read(self, fd: int, buffer: memoryview) -> memoryview:
        """Read a request from the device: a part of ``buffer``, empty at the end.

        Raises what os.readv raises.
        """
        try:
            number = self._free.popleft()
        except IndexError:
            return buffer[: os.readv(fd, (buffer,))]
        slot = self._slot(number)
        # Also makes the page present: the kernel fails a request it cannot copy while we die.
        slot[: _LENGTH.size] = _FREE
        try:
            length = os.readv(fd, (slot, buffer[SLOT:]))
        except BaseException:
            self._free.appendleft(number)
            raise
        if length < IN_HEADER.size:
            self._free.appendleft(number)
            return buffer[:length]
        buffer[:SLOT] = slot
        _, opcode, unique, *_ = IN_HEADER.unpack_from(slot)
        if opcode in NEVER_ANSWERED:
            self._give_back(number)
        else:
            self._taken[unique] = number
        return buffer[:length]

    def answered(self, unique: int) -> None:
        """The kernel has the answer. A process killed just before answers twice, which the
        kernel takes for what it is: uniques are never used again."""
        number = self._taken.pop(unique, None)
        if number is not None:
            self._give_back(number)

    def _slot(self, number: int) -> memoryview:
        return self._memory[number * SLOT : (number + 1) * SLOT]

    def _give_back(self, number: int) -> None:
        self._slot(number)[: _LENGTH.size] = _FREE
        self._free.appendleft(number)
