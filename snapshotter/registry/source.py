"""What a body that is being read has of its host: an attempt whose end counts, and a share."""

from __future__ import annotations

import threading
from collections.abc import Callable

from snapshotter.registry.errors import RegistryError
from snapshotter.registry.limits import Limiter
from snapshotter.registry.upstream import Attempt


class Source:
    """Ends once, whoever says so first: the reader, or another thread that closes."""

    def __init__(
        self, attempt: Attempt, limiter: Limiter, ended: Callable[[RegistryError | None], None]
    ) -> None:
        self._attempt = attempt
        self._limiter = limiter
        self._told = ended
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.piece = limiter.piece
        """The most bytes to take at once; 0 is no limit."""

    def slow_down(self, count: int) -> None:
        """After ``count`` bytes came: wait as long as the host's limit says, or until the end."""
        if self.piece and (delay := self._limiter.delay(count)) > 0:
            self._over.wait(delay)

    def delivered(self) -> None:
        if self._end():
            self._attempt.delivered()
            self._told(None)

    def failed(self, error: RegistryError) -> None:
        if self._end():
            self._attempt.failed(error)
            self._told(error)

    def closed(self, *, began: bool) -> None:
        """Given up by us; ``began`` says whether bytes came."""
        if self._end():
            self._attempt.delivered() if began else self._attempt.abandoned()

    def _end(self) -> bool:
        with self._lock:
            if self._over.is_set():
                return False
            self._over.set()
        self._limiter.leave()
        return True
