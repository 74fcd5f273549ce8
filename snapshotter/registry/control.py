"""The control plane's wire: one small request, one bounded answer, by httpx.

Knows nothing of authentication and follows no redirect: see exchange.py.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx

from snapshotter import __version__
from snapshotter.registry.deadlines import transport
from snapshotter.registry.errors import BadAnswer, Unreachable
from snapshotter.registry.failures import UNUSABLE_URL, connection_error
from snapshotter.registry.hosts import Tls, address_of
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.proxies import proxy_for
from snapshotter.registry.tls import tls_context

USER_AGENT = f"modelpack-snapshotter/{__version__}"
_ERROR_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and the whole body of an answer."""

    url: str
    status: int
    headers: httpx.Headers
    body: bytes

    def header(self, name: str) -> str | None:
        value: str | None = self.headers.get(name)
        return value

    def header_values(self, name: str) -> list[str]:
        return self.headers.get_list(name)

    def discard(self) -> None:
        """Nothing is held: the body has been read."""


class Control:
    """Sends requests; thread-safe."""

    def __init__(self, options: RegistryOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._clients: dict[tuple[Tls, bool, str | None], httpx.Client] = {}
        self._closed = False

    def send(
        self,
        method: str,
        url: str,
        *,
        asked: str,
        headers: Mapping[str, str],
        tls: Tls,
        identify: bool,
        limit: int,
        content: bytes | Iterator[bytes] | None = None,
        patience: float | None = None,
    ) -> Answer:
        """One request. The body of a 2xx answer may have ``limit`` bytes; of others the start
        is enough. ``patience`` replaces the read timeout where the server has work to do.
        Raises :class:`Unreachable`, :class:`Untrusted` or :class:`BadAnswer`.
        """
        client = self._client(url, tls, identify)
        timeout = httpx.Timeout(
            patience or self._options.read_timeout, connect=self._options.connect_timeout
        )
        headers = {"User-Agent": USER_AGENT, **headers}
        try:
            request = client.build_request(
                method, url, headers=headers, content=content, timeout=timeout
            )
            response = client.send(request, stream=True)
            try:
                body = self._read(response, url, asked, limit)
            finally:
                response.close()
        except (httpx.HTTPError, *UNUSABLE_URL) as error:
            raise connection_error(error, url, asked) from error
        return Answer(url, response.status_code, response.headers, body)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            clients = list(self._clients.values())
            self._clients.clear()
        for client in clients:
            client.close()

    def _client(self, url: str, tls: Tls, identify: bool) -> httpx.Client:
        host = address_of(url)
        key = (tls, identify, proxy_for(url))
        context = tls_context(tls, identify=identify)
        with self._lock:
            if self._closed:
                raise Unreachable(f"{host} was not asked: we are shutting down", host=host)
            client = self._clients.get(key)
            if client is None:
                client = self._clients[key] = httpx.Client(
                    transport=transport(
                        context, proxy=key[2], answer_timeout=self._options.answer_timeout
                    ),
                    trust_env=False,  # proxies are ours to choose; no other source of credentials
                    follow_redirects=False,
                )
        return client

    def _read(self, response: httpx.Response, url: str, asked: str, limit: int) -> bytes:
        good = response.is_success
        bound = limit if good else _ERROR_LIMIT
        deadline = time.monotonic() + self._options.answer_timeout
        body = bytearray()
        host = address_of(url)
        for piece in response.iter_bytes():
            body += piece
            if len(body) > bound:
                if not good:
                    break
                raise BadAnswer(
                    f"{host} answered more than {limit} bytes for {asked}; is it a registry?",
                    host=host,
                )
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"{host} took more than {self._options.answer_timeout:g} s for {asked}",
                    host=host,
                    temporary=True,
                )
        return bytes(body)
