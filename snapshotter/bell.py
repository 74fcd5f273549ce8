"""What a signal wakes the main thread with."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable


class Bell:
    """Counts rings; each is waited for once. Threads ring it, and the signals it is hung on.

    Neither a :class:`threading.Event` nor a queue does for signals. The interpreter runs their
    handlers between two steps of the main thread: one that calls ``Event.set`` while that thread
    is inside ``Event.wait`` may wait for the event's lock for ever, and a signal that comes just
    before the thread goes to sleep on a lock is handled only when something else wakes it. The
    byte that the interpreter's own handler in C writes into a pipe
    (:func:`signal.set_wakeup_fd`) is there whenever it comes.
    """

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._writing, False)  # set_wakeup_fd wants it so

    def hang_on(self, signals: Iterable[signal.Signals]) -> None:
        """From now on these ring, and do nothing else. One bell in a process, main thread only."""
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, lambda *_: None)

    def ring(self) -> None:
        os.write(self._writing, b"\0")

    def wait(self) -> None:
        """Until it was rung once more than was waited for."""
        os.read(self._reading, 1)
