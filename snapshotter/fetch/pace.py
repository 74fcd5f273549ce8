"""How many ranges at once, and how large? As many as make it faster, found by trying. Pure.

A registry on the same rack is at its best with a few connections, and every further one costs
it and us; one that is far away, or gives each connection its share, needs many. So the number
grows while throughput grows with it, and goes back when it did not. Each request costs a
registry some milliseconds, whatever it brings: where a connection is quick, ranges are larger.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST = 4
"""Ranges at once before anything is known."""
FAR = 0.015
"""Seconds until the first bytes of a range from which on a registry is far away."""
FIRST_FAR = 8
"""Ranges at once from a registry that is far away, before anything else is known."""
LASTS = 0.2
"""Seconds that a large range takes at least, for what one connection has brought so far."""
TELLING = 4 << 20
"""Bytes of a range from which on its rate says something."""
GAIN = 1.08
"""Throughput must grow by this much to make more connections worth it."""
SECONDS = 0.4
BYTES = 16 << 20
"""What one measurement takes at least, of both."""
PAUSE = 10.0
"""Seconds until another number is tried after a trial that failed; doubled each time."""
MAX_PAUSE = 160.0


@dataclass(slots=True)
class Pace:
    """The number of large ranges to have in flight from one registry: ``limit``."""

    most: int
    """Never more than these; 1 or more."""
    limit: int = FIRST
    before: int = 0
    """The limit that a trial under way is compared with; 0 when there is no trial."""
    best: float = 0.0
    """Bytes per second at the limit before the trial."""
    since: float | None = None
    count: int = 0
    next_trial: float = 0.0
    pause: float = PAUSE
    nearest: float = math.inf
    """Seconds until the first bytes of a range arrived, when it was quickest."""
    quick: float = 0.0
    """Bytes that one connection brings in ``LASTS``; 0 while nobody knows."""

    def __post_init__(self) -> None:
        self.limit = min(self.limit, self.most)

    @property
    def far(self) -> bool:
        """Whether the registry is known to be far away."""
        return FAR < self.nearest < math.inf

    def began(self, waited: float) -> None:
        """The first bytes of a range arrived ``waited`` seconds after it was asked for.

        A wait says how far away the registry is only if all are so long: on a busy node any is.
        """
        self.nearest = min(self.nearest, waited)
        if self.nearest > FAR and not self.best:
            self.limit = min(self.most, max(self.limit, FIRST_FAR))

    def ended(self, count: int, took: float) -> None:
        """A range of ``count`` bytes came in ``took`` seconds, the wait for it among them."""
        if count < TELLING or took <= 0:
            return
        now = count / took * LASTS
        self.quick = (3 * self.quick + now) / 4 if self.quick else now

    def landed(self, count: int, now: float, *, full: bool) -> None:
        """``count`` bytes arrived at ``now`` (seconds).

        ``full``: as many ranges as allowed were in flight. Without that a low rate says
        nothing, and the measurement begins anew.
        """
        if not full or self.since is None:
            self.since, self.count = now, 0
            return
        self.count += count
        took = now - self.since
        if took < SECONDS or self.count < BYTES:
            return
        self._measured(self.count / took, now)
        self.since, self.count = now, 0

    def _measured(self, rate: float, now: float) -> None:
        if self.before and rate < self.best * GAIN:
            self.limit, self.before = self.before, 0
            self.next_trial, self.pause = now + self.pause, min(2 * self.pause, MAX_PAUSE)
            return
        if self.before:
            self.pause = PAUSE
        self.before, self.best = 0, rate
        if now >= self.next_trial and self.limit < self.most:
            self.before = self.limit
            self.limit = min(self.most, max(self.limit + 2, self.limit * 3 // 2))
