"""A registry that misbehaves: a proxy before the real one, told at run time what to do wrong.

It serves many connections at a time, asks the real registry for each request, and lets a
:data:`Fault` spoil the answer. It can also want tokens, and redirect blobs to a
storage with signed locations, as registries in the cloud do.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from integration.harness.processes import Port

BLOBS = "/blobs/"
SOME = 1000
"""Bytes that come before a body breaks: so few that no reader is helped."""


@dataclass(frozen=True)
class Seen:
    """A request that came."""

    path: str
    headers: Mapping[str, str]


@dataclass
class Exchange:
    """An answer of the real registry, about to be sent, and the connection to the client."""

    status: int
    headers: dict[str, str]
    body: bytes
    connection: socket.socket
    lifted: threading.Event
    keep: bool = True
    """Whether the connection goes on afterwards."""

    def send(self, body: bytes | None = None, *, length: int | None = None) -> None:
        """Status and headers, then ``body``; ``length`` is what Content-Length says instead."""
        body = self.body if body is None else body
        headers = {**self.headers, "Content-Length": str(len(body) if length is None else length)}
        head = f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, '')}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.connection.sendall(head.encode() + b"\r\n" + body)

    def hang_up(self, *, reset: bool = False) -> None:
        if reset:  # close(2) with l_linger 0 sends RST, see socket(7)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.keep = False


Fault = Callable[[Exchange], None]
"""Sends what the client gets, in place of the answer."""


def reset(exchange: Exchange) -> None:
    exchange.send(exchange.body[:SOME], length=len(exchange.body))
    exchange.hang_up(reset=True)


def truncated(exchange: Exchange) -> None:
    exchange.send(exchange.body[:SOME], length=len(exchange.body))
    exchange.hang_up()


def longer(exchange: Exchange) -> None:
    exchange.send(exchange.body + b"more than was asked for")


def chatty(exchange: Exchange) -> None:
    """Bytes after the end of the body that the header names."""
    exchange.send(exchange.body + b"HTTP/1.1 200 OK\r\n\r\n", length=len(exchange.body))


def wrong_range(exchange: Exchange) -> None:
    exchange.headers["Content-Range"] = "bytes 1-2/3"
    exchange.send()


def stalled(exchange: Exchange) -> None:
    exchange.send(exchange.body[:SOME], length=len(exchange.body))
    exchange.lifted.wait(60)
    exchange.hang_up()


def trickling(exchange: Exchange) -> None:
    """A byte now and then, always before a timeout that begins anew with each."""
    exchange.send(b"", length=len(exchange.body))
    for byte in exchange.body:
        if exchange.lifted.wait(0.2):
            break
        exchange.connection.sendall(bytes([byte]))
    exchange.hang_up()


def flipped(exchange: Exchange) -> None:
    exchange.send(bytes(byte ^ 1 for byte in exchange.body[:1]) + exchange.body[1:])


def status(number: int, **headers: str) -> Fault:
    def answer(exchange: Exchange) -> None:
        exchange.status = number
        exchange.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        exchange.send(b'{"errors": [{"code": "FAULT", "message": "as the test wants"}]}')

    return answer


def slow(seconds: float) -> Fault:
    """The right answer after ``seconds``."""

    def answer(exchange: Exchange) -> None:
        exchange.lifted.wait(seconds)
        exchange.send()

    return answer


@dataclass
class _Planned:
    fault: Fault
    on: re.Pattern[str]
    times: int | None
    lifted: threading.Event = field(default_factory=threading.Event)


class FaultyRegistry:
    """The proxy. ``upstream`` is the real registry's ``host:port``."""

    def __init__(self, upstream: str, *, tls: ssl.SSLContext | None = None) -> None:
        self.upstream = upstream
        self._reserved = Port()
        self.port = self._reserved.number
        self.host = f"127.0.0.1:{self.port}"
        self.seen: list[Seen] = []
        self.open_connections = 0
        self.most_connections = 0
        self.whole = False
        """Ignore ``Range``, so that each request is answered with all of the blob."""
        self.login: tuple[str, str] | None = None
        """User and password wanted for a token, without which nothing is given."""
        self.token = "planted-token-0"
        self.storage: FaultyRegistry | None = None
        """Where blobs are redirected to, with a signature in the query."""
        self.signature: str | None = None
        """The signature wanted here, when this is such a storage."""
        self._tls = tls
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []
        self._connections: set[socket.socket] = set()
        self._server: _Server | None = None
        self.start()

    def start(self) -> None:
        self._server = _Server(self, self._tls)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and break those there are."""
        self.heal()
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def fault(self, fault: Fault, *, on: str = BLOBS, times: int | None = None) -> None:
        """Spoil answers to paths that match ``on``, the first ``times`` of them or all."""
        with self._lock:
            self._planned.append(_Planned(fault, re.compile(on), times))

    def heal(self) -> None:
        """Nothing is wrong any more; what is being held up goes on."""
        with self._lock:
            planned, self._planned = self._planned, []
        for each in planned:
            each.lifted.set()

    def asked(self, on: str = BLOBS) -> list[Seen]:
        return [seen for seen in list(self.seen) if re.search(on, seen.path)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._reserved.close()

    def plan(self, path: str) -> tuple[Fault, threading.Event]:
        """What to do with the answer to a request for ``path``."""
        with self._lock:
            for planned in self._planned:
                if planned.on.search(path) and planned.times != 0:
                    if planned.times is not None:
                        planned.times -= 1
                    return planned.fault, planned.lifted
        return Exchange.send, threading.Event()

    def count(self, connection: socket.socket, *, opened: bool) -> None:
        with self._lock:
            (self._connections.add if opened else self._connections.discard)(connection)
            self.open_connections = len(self._connections)
            self.most_connections = max(self.most_connections, self.open_connections)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, registry: FaultyRegistry, tls: ssl.SSLContext | None) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", registry.port), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )

    # Counted in the thread that accepts: after its end no connection is yet to be known.

    def process_request(self, request: Any, client_address: Any) -> None:
        self.registry.count(request, opened=True)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.registry.count(request, opened=False)
        super().shutdown_request(request)

    def handle_error(self, *_: Any) -> None:
        pass  # clients that go away are what tests are about


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        registry = self.server.registry
        registry.seen.append(Seen(self.path, dict(self.headers.items())))
        if (refusal := self._refusal()) is not None:
            self._send(*refusal, Exchange.send, threading.Event())
        else:
            fault, lifted = registry.plan(self.path)
            self._send(*self._answer(), fault, lifted)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass

    def _send(
        self,
        number: int,
        headers: dict[str, str],
        body: bytes,
        fault: Fault,
        lifted: threading.Event,
    ) -> None:
        exchange = Exchange(number, headers, body, self.connection, lifted)
        if self.command == "HEAD":
            exchange.send(b"", length=int(headers.pop("content-length", "0")))
        else:
            fault(exchange)
        self.close_connection = not exchange.keep

    def _refusal(self) -> tuple[int, dict[str, str], bytes] | None:
        """What stands before the registry's own answer: signature, token, redirect."""
        registry = self.server.registry
        if registry.signature is not None:
            signed = f"X-Signature={registry.signature}" in self.path
            return None if signed else (403, {}, b"<Error>AccessDenied</Error>")
        if registry.login is not None:
            if self.path.startswith("/token"):
                pair = base64.b64encode(":".join(registry.login).encode()).decode()
                if self.headers.get("Authorization") != f"Basic {pair}":
                    return 401, {}, b"{}"
                answer = {"token": registry.token, "expires_in": 3600}
                return 200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
            if self.headers.get("Authorization") != f"Bearer {registry.token}":
                realm = f'Bearer realm="http://{registry.host}/token",service="test"'
                return 401, {"WWW-Authenticate": realm}, b"{}"
        storage = registry.storage
        if storage is not None and BLOBS in self.path:
            path = self.path.partition("?")[0]
            target = f"http://{storage.host}{path}?X-Signature={storage.signature}"
            return 307, {"Location": target}, b""
        return None

    def _answer(self) -> tuple[int, dict[str, str], bytes]:
        """What the real registry says."""
        registry = self.server.registry
        wanted = {"Accept", "Range"} - ({"Range"} if registry.whole else set())
        upstream = http.client.HTTPConnection(registry.upstream, timeout=30)
        try:
            headers = {name: value for name in wanted if (value := self.headers.get(name))}
            upstream.request(self.command, self.path.partition("?")[0], headers=headers)
            response = upstream.getresponse()
            passed = {"content-type", "content-range", "docker-content-digest"}
            if self.command == "HEAD":
                passed.add("content-length")
            found = {n.lower(): v for n, v in response.getheaders() if n.lower() in passed}
            return response.status, found, response.read()
        finally:
            upstream.close()
