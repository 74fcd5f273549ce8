from __future__ import annotations

import subprocess
import sys
import threading

from snapshotter.bell import Bell

_INTERRUPTED = """
import random, signal, time
from snapshotter.bell import Bell

bell = Bell()
bell.hang_on([signal.SIGALRM])
over = time.monotonic() + 20
for _ in range(20_000):
    if time.monotonic() > over:
        break  # on a busy machine
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 2e-5))
    bell.wait()
"""


def test_no_signal_is_missed_whenever_it_comes() -> None:
    """With a handler that sets an Event, or puts into a queue, this comes to no end."""
    subprocess.run([sys.executable, "-c", _INTERRUPTED], check=True, timeout=100)


def test_each_ring_is_waited_for_once() -> None:
    bell = Bell()
    bell.ring()
    bell.ring()
    bell.wait()
    bell.wait()
    third = threading.Thread(target=bell.wait, daemon=True)
    third.start()
    third.join(0.05)
    assert third.is_alive()
    bell.ring()
    third.join(60)
    assert not third.is_alive()
