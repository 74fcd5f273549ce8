"""How building and pushing tell how far they are; drawing it is the caller's."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called from several threads."""

    def total(self, size: int, /) -> None:
        """How many bytes there are to go through."""
        ...

    def advance(self, size: int, /) -> None:
        """So many bytes more; negative when a failed attempt begins anew."""
        ...


class Silent:
    """Nobody is looking."""

    def total(self, size: int, /) -> None:
        pass

    def advance(self, size: int, /) -> None:
        pass
