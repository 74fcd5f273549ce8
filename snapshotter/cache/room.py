"""What a blob asks before it keeps bytes, see :class:`~snapshotter.cache.space.Space`."""

from __future__ import annotations

from typing import Protocol


class Room(Protocol):
    """Who says whether bytes may be kept; thread-safe."""

    def take(self, count: int) -> None:
        """Raises :class:`CacheFull` when ``count`` more bytes are too many."""

    def settle(self, count: int, *, unused: int = 0) -> None:
        """``count`` bytes that were taken are written now, but for those ``unused``."""

    def give_back(self, count: int) -> None:
        """``count`` bytes are not used any more."""

    def refused(self) -> None:
        """The disk is full, whatever we thought."""


class Boundless:
    """Room for everything the disk takes."""

    def take(self, count: int) -> None:
        pass

    def settle(self, count: int, *, unused: int = 0) -> None:
        pass

    def give_back(self, count: int) -> None:
        pass

    def refused(self) -> None:
        pass
