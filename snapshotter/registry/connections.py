"""Keep-alive connections of the data plane, by http.client.

``readinto`` of http.client brings bytes from the socket into the caller's
buffer without a copy in Python: three times the speed of httpx at a third of
the CPU. Knows nothing of blobs, ranges and authentication.
"""

from __future__ import annotations

import base64
import http.client
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote, urlsplit

from snapshotter.registry.control import USER_AGENT
from snapshotter.registry.errors import RegistryError, Unreachable
from snapshotter.registry.failures import UNUSABLE_URL, connection_error
from snapshotter.registry.hosts import Tls, address_of
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.pace import Pace
from snapshotter.registry.paced import PacedResponse
from snapshotter.registry.proxies import proxy_for
from snapshotter.registry.tls import tls_context

_DISCARD_LIMIT = 64 << 10
_BROKEN = (ConnectionError, http.client.BadStatusLine, http.client.CannotSendRequest)
"""What a request on a kept connection meets when the server has closed it meanwhile."""
_UNANSWERED = (OSError, http.client.HTTPException, *UNUSABLE_URL)


@dataclass(frozen=True, slots=True)
class _Route:
    """Connections that may serve one another's requests."""

    scheme: str
    host: str
    port: int
    tls: Tls
    identify: bool
    proxy: str | None = field(repr=False)


@dataclass(slots=True)
class _Idle:
    connection: http.client.HTTPConnection
    since: float


class Pool:
    """Sends GET requests and keeps the connections; thread-safe."""

    def __init__(self, options: RegistryOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._idle: dict[_Route, deque[_Idle]] = {}
        self._active: set[PooledResponse] = set()
        self._preparing: set[_Route] = set()
        self._closed = False

    def prepare(self, url: str, *, tls: Tls, identify: bool) -> None:
        """Begin to connect to where ``url`` is, so that a request soon to come need not wait.

        Returns at once. Does nothing where a connection is kept already; one that cannot
        be made is left to the request to report.
        """
        try:
            route = _route(url, tls, identify)
        except ValueError:
            return
        with self._lock:
            if self._closed or route in self._preparing or self._idle.get(route):
                return
            self._preparing.add(route)
        threading.Thread(
            target=self._prepare, args=(route,), name="modelpack-connect", daemon=True
        ).start()

    def _prepare(self, route: _Route) -> None:
        try:
            self._put_back(route, self._connect(route))
        except (OSError, RegistryError, *UNUSABLE_URL):
            pass  # whoever asks next meets the same, and says so
        finally:
            with self._lock:
                self._preparing.discard(route)

    def get(
        self, url: str, headers: Mapping[str, str], *, asked: str, tls: Tls, identify: bool
    ) -> PooledResponse:
        """The answer's status and headers; its body is still to be read.

        A kept connection that turns out closed is replaced once, unseen.
        """
        route = _route(url, tls, identify)
        connection = self._take(route)
        if connection is not None:
            try:
                return self._send(connection, route, url, headers, asked)
            except _BROKEN:
                pass
            except _UNANSWERED as error:
                raise connection_error(error, url, asked) from error
        try:
            connection = self._connect(route)
        except (OSError, *UNUSABLE_URL) as error:
            raise connection_error(error, url, asked) from error
        try:
            return self._send(connection, route, url, headers, asked)
        except _UNANSWERED as error:
            raise connection_error(error, url, asked) from error

    def close(self) -> None:
        """Closes idle connections and breaks off bodies that are being read."""
        with self._lock:
            self._closed = True
            active = list(self._active)
            idle = [entry for entries in self._idle.values() for entry in entries]
            self._idle.clear()
        for response in active:
            response.close()
        for entry in idle:
            entry.connection.close()

    def _send(
        self,
        connection: http.client.HTTPConnection,
        route: _Route,
        url: str,
        headers: Mapping[str, str],
        asked: str,
    ) -> PooledResponse:
        """Closes the connection when there is no answer."""
        try:
            return self._sent(connection, route, url, headers, asked)
        except BaseException:
            connection.close()
            raise

    def _sent(
        self,
        connection: http.client.HTTPConnection,
        route: _Route,
        url: str,
        headers: Mapping[str, str],
        asked: str,
    ) -> PooledResponse:
        parts = urlsplit(url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = {"User-Agent": USER_AGENT, **headers}
        if route.proxy and route.scheme == "http":
            target = f"http://{address_of(url)}{target}"
            sent |= _proxy_headers(route.proxy)
        sock = connection.sock
        connection.request("GET", target, headers=sent)
        response = PooledResponse(self, route, connection, sock, url, asked)
        with self._lock:
            if not self._closed:
                self._active.add(response)
        if self._closed:
            response.close()
            raise _shutting_down(url)
        try:
            response.begin()
        except BaseException:
            self._forget(response)
            raise
        return response

    def _take(self, route: _Route) -> http.client.HTTPConnection | None:
        now = time.monotonic()
        stale: list[http.client.HTTPConnection] = []
        found = None
        with self._lock:
            entries = self._idle.get(route)
            while entries and found is None:
                entry = entries.pop()
                fresh = now - entry.since < self._options.idle_timeout
                if fresh and not _readable(entry.connection.sock):
                    found = entry.connection
                else:
                    stale.append(entry.connection)
            if entries is not None and not entries:
                del self._idle[route]
        for connection in stale:
            connection.close()
        return found

    def _connect(self, route: _Route) -> http.client.HTTPConnection:
        proxy = urlsplit(route.proxy) if route.proxy else None
        host, port = route.host, route.port
        if proxy is not None:
            host, port = proxy.hostname or "", proxy.port or 80
        timeout = self._options.connect_timeout
        connection: http.client.HTTPConnection
        if route.scheme == "https":
            context = tls_context(route.tls, identify=route.identify)
            connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
            if route.proxy:
                connection.set_tunnel(route.host, route.port, headers=_proxy_headers(route.proxy))
        else:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.connect()
        except BaseException:
            connection.close()
            raise
        connection.sock.settimeout(self._options.read_timeout)
        connection.response_class = partial(  # type: ignore[assignment]
            PacedResponse,
            Pace(self._options.min_rate, self._options.read_timeout),
            self._options.answer_timeout,
        )
        return connection

    def _keep(self, response: PooledResponse) -> None:
        self._forget(response)
        self._put_back(response.route, response.connection)

    def _put_back(self, route: _Route, connection: http.client.HTTPConnection) -> None:
        """Into the pool; the oldest makes room."""
        surplus: http.client.HTTPConnection | None = connection
        with self._lock:
            if not self._closed and connection.sock is not None:
                entries = self._idle.setdefault(route, deque())
                entries.append(_Idle(connection, time.monotonic()))
                full = len(entries) > self._options.idle_connections
                surplus = entries.popleft().connection if full else None
        if surplus is not None:
            surplus.close()

    def _forget(self, response: PooledResponse) -> None:
        with self._lock:
            self._active.discard(response)


class PooledResponse:
    """An answer on a connection that goes back to the pool once it has been read to its end."""

    def __init__(
        self,
        pool: Pool,
        route: _Route,
        connection: http.client.HTTPConnection,
        sock: socket.socket,
        url: str,
        asked: str,
    ) -> None:
        self.route = route
        self.connection = connection
        self.url = url
        self.asked = asked
        self._pool = pool
        self._sock = sock
        self._lock = threading.Lock()
        self._done = False
        self._answer: http.client.HTTPResponse | None = None

    def begin(self) -> None:
        """Read status and headers."""
        self._answer = self.connection.getresponse()

    @property
    def _response(self) -> http.client.HTTPResponse:
        assert self._answer is not None
        return self._answer

    @property
    def status(self) -> int:
        return self._response.status

    def header(self, name: str) -> str | None:
        return self._response.getheader(name)

    def header_values(self, name: str) -> list[str]:
        return self._response.headers.get_all(name, [])

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer``; fewer bytes only at the body's end or when the connection broke."""
        try:
            return self._response.readinto(buffer)
        except (OSError, ValueError, AttributeError, http.client.HTTPException) as error:
            # ValueError and AttributeError: close() of another thread took the file away.
            raise self.error(error) from error

    def read(self, limit: int) -> bytes:
        """At most ``limit`` bytes of the body."""
        buffer = bytearray(limit)
        return bytes(buffer[: self.readinto(memoryview(buffer))])

    def error(self, error: Exception) -> RegistryError:
        """``error`` as a registry's, unless it only shows that we broke off ourselves."""
        if self._done:
            host = address_of(self.url)
            return Unreachable(f"{host}: reading {self.asked} was given up", host=host)
        if isinstance(error, RegistryError):
            return error
        return connection_error(error, self.url, self.asked)

    def discard(self) -> None:
        """Done with a body nobody wants: a short one is read, so that the connection can stay."""
        try:
            self.read(_DISCARD_LIMIT)
        except RegistryError:
            pass  # the connection is closed below; its answer was unwanted
        self.release()

    def release(self) -> None:
        """The connection goes back when the body is at its end, else it is closed."""
        if not self._response.isclosed():
            self.close()
            return
        with self._lock:
            if self._done:
                return
            self._done = True
        self._pool._keep(self)

    def close(self) -> None:
        """Break off, from any thread."""
        with self._lock:
            if self._done:
                return
            self._done = True
        try:
            # Wakes a thread inside recv(); SSLSocket's own shutdown() would pull its TLS away.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was quicker
        self.connection.close()
        if self._answer is not None:
            # Of an answer without a length only the answer itself has the socket any more.
            self._answer.close()
        self._pool._forget(self)


def _route(url: str, tls: Tls, identify: bool) -> _Route:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return _Route(parts.scheme, parts.hostname or "", port, tls, identify, proxy_for(url))


def _readable(sock: socket.socket | None) -> bool:
    """An idle connection with something to read is at its end, or out of step."""
    if sock is None:
        return True
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _proxy_headers(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
    return {"Proxy-Authorization": "Basic " + base64.b64encode(pair).decode()}


def _shutting_down(url: str) -> Unreachable:
    host = address_of(url)
    return Unreachable(f"{host} was not asked: we are shutting down", host=host)
