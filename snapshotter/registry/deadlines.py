"""How long an answer of the control plane may take altogether, headers included.

httpx has a timeout for each read of the socket, which begins anew with every byte: a server that
sends one now and then would hold a thread for days. So the connections it uses count from the
end of a request on.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore
import httpx


class _Stream(httpcore.NetworkStream):
    """A connection whose reads after the last write take ``limit`` seconds at most, or the
    timeout of one read where that is longer."""

    def __init__(self, inner: httpcore.NetworkStream, limit: float) -> None:
        self._inner = inner
        self._limit = limit
        self._asked: float | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
        left = max(self._limit, timeout or 0.0) - (now - self._asked)
        if left <= 0:
            raise httpcore.ReadTimeout(f"no whole answer in {self._limit:g} s")
        return self._inner.read(max_bytes, left if timeout is None else min(left, timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._asked = None
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(inner, self._limit)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    def __init__(self, limit: float) -> None:
        self._limit = limit

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        inner = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(inner, self._limit)


def transport(
    context: ssl.SSLContext, *, proxy: str | None, answer_timeout: float
) -> httpx.HTTPTransport:
    """httpx's own, but for ``answer_timeout`` in seconds."""
    made = httpx.HTTPTransport(verify=context, proxy=proxy, trust_env=False)
    # httpcore takes it as a parameter, httpx does not hand it on. Held by a test.
    made._pool._network_backend = _Backend(answer_timeout)
    return made
