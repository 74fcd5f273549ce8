"""A connection that gives a byte now and then is as good as dead: the least rate. Pure."""

from __future__ import annotations


class Pace:
    """Counts bytes against the time spent waiting for them, window by window.

    Time in which nobody asked for bytes does not count: a slow disk is not the
    registry's fault.
    """

    def __init__(self, least: float, window: float) -> None:
        """``least`` bytes per second, 0 for any, in each ``window`` seconds of waiting."""
        self._least = least
        self._window = window
        self.restart()

    def restart(self) -> None:
        self.waited = 0.0
        self.received = 0

    def too_slow(self, received: int, waited: float) -> bool:
        """Count ``received`` bytes that took ``waited`` seconds to come."""
        self.waited += waited
        self.received += received
        if self.waited < self._window:
            return False
        if self.received < self._least * self.waited:
            return True
        self.restart()
        return False
