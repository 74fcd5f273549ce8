"""One READ, and how it is answered: at once or later, from any thread, exactly once."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Sequence
from typing import Protocol, TypeAlias

log = logging.getLogger(__name__)

Buffer: TypeAlias = bytes | bytearray | memoryview


class Answers(Protocol):
    """Where answers go. Never raises: what cannot be sent is logged."""

    def send(self, unique: int, error: int, buffers: Sequence[Buffer] = ()) -> None:
        """Answer the request ``unique``, with bytes or with a positive errno."""


class ReadRequest:
    """The kernel wants ``size`` bytes from ``offset`` of ``nodeid``.

    Answer with :meth:`reply` or :meth:`fail`; the first answer wins, later ones are
    ignored, also when the kernel has lost interest meanwhile. A request that is never
    answered leaves its reader waiting for ever.
    """

    __slots__ = (
        "_answers",
        "_exact",
        "_once",
        "_parked",
        "fh",
        "interrupted",
        "nodeid",
        "offset",
        "pid",
        "size",
        "unique",
    )

    def __init__(
        self,
        answers: Answers,
        parked: dict[int, ReadRequest],
        *,
        unique: int,
        nodeid: int,
        fh: int,
        offset: int,
        size: int,
        pid: int,
    ) -> None:
        self._answers = answers
        self._parked = parked
        self._once = threading.Lock()
        self._exact = False
        self.unique = unique
        self.nodeid = nodeid
        self.fh = fh
        """As :class:`~fuse.operations.Opened` gave it."""
        self.offset = offset
        self.size = size
        """Bytes. The kernel asks in whole pages, so beyond the end of the file too."""
        self.pid = pid
        """Thread that asks; for readahead the one that started it. 0 when it is in a PID
        namespace that the mount's cannot see."""
        self.interrupted = False
        """The thread that waits got a signal. It still waits unless it is to die of it, in
        which case the session answers EINTR for you and :attr:`answered` is true."""
        parked[unique] = self

    @property
    def answered(self) -> bool:
        """Whether an answer was given, so that no more work need be done for it."""
        return self._once.locked()

    def limit(self, file_size: int) -> None:
        """Cut ``size`` at the end of a file of ``file_size`` bytes, and hold replies to it.

        The kernel takes a short reply for the end of the file, shows zeros from there on
        and may shrink the file. After this a reply of any other size than ``size`` is
        answered EIO and logged instead.
        """
        self.size = max(0, min(self.size, file_size - self.offset))
        self._exact = True

    def reply(self, *buffers: Buffer) -> None:
        """Answer with bytes, which the kernel copies before this returns.

        Fewer than ``size`` bytes mean the end of the file is there.
        """
        if not self._claim():
            return
        total = sum(memoryview(buffer).nbytes for buffer in buffers)
        if total > self.size or (self._exact and total < self.size):
            log.error(
                "read of %d bytes at %d of node %d was replied to with %d bytes: failed with EIO",
                self.size,
                self.offset,
                self.nodeid,
                total,
            )
            self._answers.send(self.unique, errno.EIO)
        else:
            self._answers.send(self.unique, 0, buffers)

    def fail(self, errno: int) -> None:
        """Answer with an errno (positive). A page fault of a mapping becomes SIGBUS."""
        if self._claim():
            self._answers.send(self.unique, errno)

    def _claim(self) -> bool:
        if not self._once.acquire(blocking=False):
            return False
        # A request sent again has taken the place of its forerunner.
        if self._parked.get(self.unique) is self:
            self._parked.pop(self.unique, None)
        return True

    def __repr__(self) -> str:
        return (
            f"<ReadRequest {self.unique:#x}: {self.size} bytes at {self.offset} "
            f"of node {self.nodeid} for {self.pid}>"
        )
