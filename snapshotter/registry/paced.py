"""An answer of http.client that is given up when it trickles, or never gets to its body."""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

from snapshotter.registry.failures import TooSlow
from snapshotter.registry.pace import Pace

_HEAD_LIMIT = 256 << 10


class PacedResponse(http.client.HTTPResponse):
    """An answer given up when it trickles: a socket's timeout begins anew with every byte.

    Its status and headers, and any number of answers 1xx before them, may have
    256 KiB and take ``patience`` seconds.
    """

    def __init__(
        self, pace: Pace, patience: float, sock: socket.socket, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(sock, *args, **kwargs)
        pace.restart()
        self._paced = _PacedSocket(self.fp.detach(), pace, time.monotonic() + patience)
        self.fp = io.BufferedReader(self._paced)

    def begin(self) -> None:
        super().begin()
        self._paced.head_over()


class _PacedSocket(io.RawIOBase):
    """The socket's file, whose bytes are counted against the time they take to come."""

    def __init__(self, raw: io.RawIOBase, pace: Pace, head_until: float) -> None:
        self._raw = raw
        self._pace = pace
        self._head_until: float | None = head_until
        self._head_bytes = 0

    def head_over(self) -> None:
        """Status and headers have come. How long the registry thought is no measure of how fast
        the body comes."""
        self._head_until = None
        self._pace.restart()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count: int | None = self._raw.readinto(buffer)
        now = time.monotonic()
        if self._head_until is not None:
            self._head_bytes += count or 0
            if self._head_bytes > _HEAD_LIMIT:
                raise http.client.HTTPException("headers without end")
            if now > self._head_until:
                raise TimeoutError
        if self._pace.too_slow(count or 0, now - began) and count:
            raise TooSlow(f"{self._pace.received} bytes in {self._pace.waited:.0f} s")
        return count

    def close(self) -> None:
        super().close()
        self._raw.close()
