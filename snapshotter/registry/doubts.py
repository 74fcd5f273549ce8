"""Which hosts gave something wrong of one blob, and whether to ask for it again."""

from __future__ import annotations

import threading
from collections.abc import Collection

from snapshotter.registry.errors import BadAnswer, Busy, LeftAlone, RegistryError

_AVOID = 30.0
"""Seconds a host is asked last for the blob it gave wrongly."""
_BELIEVED = 3
"""Wrong answers in a row after which trying again is no use."""
_REMEMBERED = 64
_DISTRUST = 300.0
"""Seconds a host is asked last whose bytes of the blob were wrong, however well it answers."""


class Doubts:
    """Of one blob; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}
        self._wrong: dict[int, int] = {}
        self._distrusted: dict[str, float] = {}

    def hosts(self, now: float) -> Collection[str]:
        """URLs of the hosts to ask last."""
        if not self._until and not self._distrusted:
            return ()
        with self._lock:
            doubted = [*self._until.items(), *self._distrusted.items()]
            return {url for url, until in doubted if until > now}

    def distrust(self, url: str, now: float) -> None:
        """The host gave other bytes than it should, in answers that looked right."""
        with self._lock:
            self._distrusted[url] = now + _DISTRUST

    def note(self, url: str, error: RegistryError, now: float) -> None:
        """The host failed with ``error``."""
        if not isinstance(error, (Busy, LeftAlone)):
            with self._lock:
                self._until[url] = now + _AVOID

    def judge(self, error: BadAnswer, start: int) -> None:
        """The range from ``start`` was answered wrongly by all: is it worth trying again?

        Some proxy may have had a bad moment; when it goes on, that is its answer.
        """
        with self._lock:
            if len(self._wrong) >= _REMEMBERED:
                self._wrong.clear()
            self._wrong[start] = self._wrong.get(start, 0) + 1
            error.temporary = self._wrong[start] < _BELIEVED

    def believe(self, url: str, start: int) -> None:
        """The host gave the range from ``start`` rightly."""
        if self._until or self._wrong:
            with self._lock:
                self._until.pop(url, None)
                self._wrong.pop(start, None)
