"""What an operator allows us to take from one host: connections, requests, bytes. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from snapshotter.registry.errors import Busy
from snapshotter.registry.hosts import Host, default_address
from snapshotter.registry.options import HostLimits

ANY = "_default"
"""The key whose limits hold for each host that has none of its own."""
_PATIENCE = 0.25
"""Seconds a thread waits for a place before it goes and does something for another host."""
_STEPS = 10
"""Pieces a second in which a limited rate is taken."""
_SMALLEST = 4 << 10


class Limiter:
    """The limits of one host, and what is used of them now."""

    def __init__(
        self, address: str, limits: HostLimits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits
        self.connections = 0
        """In use for blobs now."""
        self._address = address
        self._clock = clock
        self._place = threading.Condition()
        self._next_request = 0.0
        self._next_byte = 0.0

    def enter(self) -> None:
        """Take a connection for one request, after a moment's wait at most. Raises :class:`Busy`.

        Who got it must :meth:`leave`.
        """
        most = self.limits.connections
        with self._place:
            if most and not self._place.wait_for(lambda: self.connections < most, _PATIENCE):
                raise Busy(
                    f"{self._address} is asked on {most} connections already, as many as "
                    "registry.limits allows",
                    host=self._address,
                    retry_after=_PATIENCE / 5,
                )
            self.connections += 1
        try:
            self._take_turn()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        with self._place:
            self.connections -= 1
            self._place.notify()

    @property
    def piece(self) -> int:
        """The most bytes to take at once, so that a rate is kept evenly; 0 is no limit."""
        rate = self.limits.bytes_per_second
        return max(_SMALLEST, rate // _STEPS) if rate else 0

    def delay(self, count: int) -> float:
        """Seconds to wait after ``count`` bytes came."""
        rate = self.limits.bytes_per_second
        if not rate:
            return 0.0
        with self._place:
            now = self._clock()
            self._next_byte = max(self._next_byte, now) + count / rate
            return self._next_byte - now

    def _take_turn(self) -> None:
        rate = self.limits.requests_per_second
        if not rate:
            return
        with self._place:
            wait = self._next_request - self._clock()
            if wait > _PATIENCE:
                raise Busy(
                    f"{self._address} has had its {rate:g} requests per second, as many as "
                    "registry.limits allows",
                    host=self._address,
                    retry_after=wait,
                )
            self._next_request = max(self._next_request, self._clock()) + 1 / rate
        if wait > 0:
            time.sleep(wait)


class Limits:
    """The limiters of all hosts."""

    def __init__(self, configured: Mapping[str, HostLimits]) -> None:
        self._configured = configured
        self._lock = threading.Lock()
        self._limiters: dict[str, Limiter] = {}

    def of(self, host: Host) -> Limiter:
        """One for each host's address, whatever registries it serves."""
        address = host.address
        with self._lock:
            limiter = self._limiters.get(address)
            if limiter is None:
                limiter = self._limiters[address] = Limiter(address, self._limits(host))
            return limiter

    def _limits(self, host: Host) -> HostLimits:
        names = [host.address]
        if host.address == default_address(host.registry):
            names.append(host.registry)  # docker.io is asked under another name
        names.append(ANY)
        return next((self._configured[n] for n in names if n in self._configured), HostLimits())
