"""Which of our threads the kernel lets run first."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

PROMPT = -10
"""For a thread that everybody waits for."""
IDLE = 10
"""For one whose work nobody waits for."""


def be_nice(nice: int) -> None:
    """Give the calling thread, alone (setpriority(2), "C library/kernel differences"), this
    nice value; without the right to it, it stays as it is."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
