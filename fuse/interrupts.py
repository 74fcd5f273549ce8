"""Reads whose caller got a signal: answer those who are to die of it, and only those.

The kernel sends INTERRUPT for any signal, also for one that has a handler (a profiler's
SIGPROF, the Go runtime's SIGURG). EINTR would then surface where no program expects it: as
a failed read of a regular file, or as SIGBUS in a mapping. And it sends INTERRUPT once: if
a harmless signal came first, the SIGKILL that follows is not told, though the process
cannot die before its read is answered (fs/fuse/dev.c, request_wait_answer). So interrupted
reads are looked at again and again, and /proc says whether their thread is doomed.
"""

from __future__ import annotations

import errno
import re
import signal
import time

from fuse.reading import ReadRequest

SWEEP_INTERVAL = 0.2
"""Seconds between looks at interrupted reads, while there are any."""
_UNKNOWN_FOR = 5.0
# Seconds to remember an INTERRUPT whose request is not there: it may have overtaken the
# request on another thread, but mostly its answer was on the way already.

_HARMLESS = (
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
)
_DEADLY = (1 << 64) - 1 & ~sum(1 << number - 1 for number in _HARMLESS)
"""Signals that by default end a process, as a mask like those in /proc/<pid>/status."""

_MASK = re.compile(r"^(SigPnd|ShdPnd|SigBlk|SigIgn|SigCgt):\s*([0-9a-f]+)$", re.MULTILINE)


class Interrupts:
    """The interrupted among the parked reads. Used by several threads at once."""

    def __init__(self, parked: dict[int, ReadRequest]) -> None:
        self._parked = parked
        self._since: dict[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self._since)

    def add(self, unique: int) -> None:
        """The kernel says the request ``unique`` is interrupted."""
        self._since[unique] = time.monotonic()
        self.sweep()

    def sweep(self) -> None:
        """Answer EINTR to reads of dying threads; forget what is answered."""
        now = time.monotonic()
        for unique, since in list(self._since.items()):
            request = self._parked.get(unique)
            if request is None:
                if now - since > _UNKNOWN_FOR:
                    self._since.pop(unique, None)
                continue
            request.interrupted = True
            if request.answered or _thread_is_dying(request.pid):
                self._since.pop(unique, None)
                request.fail(errno.EINTR)


def _thread_is_dying(pid: int) -> bool:
    """False also when it cannot be known: the thread then waits for its answer."""
    if pid == 0:
        return False
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return is_dying(file.read())
    except OSError:
        return False


def is_dying(status: str) -> bool:
    """Whether /proc/<pid>/status shows a pending signal that will end the thread."""
    masks = {name: int(value, 16) for name, value in _MASK.findall(status)}
    pending = masks.get("SigPnd", 0) | masks.get("ShdPnd", 0)
    survived = masks.get("SigBlk", 0) | masks.get("SigIgn", 0) | masks.get("SigCgt", 0)
    return bool(pending & ~survived & _DEADLY)
