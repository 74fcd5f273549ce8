"""Errors of gRPC connections and calls."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class ConnectionFailed(ModelpackError):
    """The peer broke HTTP/2 (RFC 9113): the connection ends with ``code`` of section 7."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class CallFailed(ModelpackError):
    """A call was answered with a status other than OK: ``code``, one of gRPC's."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code
