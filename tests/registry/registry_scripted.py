"""An HTTP server that answers as a test says, for faults no real registry can be made to show."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    client_certificate: bool = False


@dataclass(frozen=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut: int | None = None
    """Send only so many bytes of the body and hang up."""
    silent_close: bool = False
    """Promise to keep the connection and close it all the same."""
    raw: bytes | None = None
    """Send this and nothing else."""
    hold: threading.Event | None = None
    """Keep the connection open until then."""
    trickle: Iterable[bytes] = ()
    """After ``raw``: a piece now and then, until ``hold``."""


class ScriptedServer:
    """``answer`` makes each reply; ``requests`` are those that came."""

    def __init__(self, answer: Callable[[Request], Reply], tls: ssl.SSLContext | None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                length = int(self.headers.get("Content-Length", 0))
                certificate = getattr(self.connection, "getpeercert", lambda: None)()
                request = Request(
                    self.command,
                    parts.path,
                    parse_qs(parts.query),
                    dict(self.headers.items()),
                    self.rfile.read(length),
                    bool(certificate),
                )
                outer.requests.append(request)
                self.reply(answer(request))

            do_HEAD = do_POST = do_PUT = do_GET

            def reply(self, reply: Reply) -> None:
                if reply.raw is not None:
                    self.wfile.write(reply.raw)
                    self.close_connection = True
                    for piece in reply.trickle:
                        if reply.hold is not None and reply.hold.wait(0.02):
                            return
                        self.wfile.write(piece)
                    if reply.hold is not None:
                        reply.hold.wait(100)
                    return
                self.send_response(reply.status)
                lengths = {"Content-Length", "Transfer-Encoding"}
                if not lengths & set(reply.headers):
                    self.send_header("Content-Length", str(len(reply.body)))
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(reply.body[: reply.cut])
                if reply.cut is not None or reply.silent_close:
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # or the kernel drops some of many who come at once

            def handle_error(self, *_: Any) -> None:
                pass  # clients that go away are what tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="scripted-server"
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def asked(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.path == path]


@contextlib.contextmanager
def scripted(
    answer: Callable[[Request], Reply], *, tls: ssl.SSLContext | None = None
) -> Iterator[ScriptedServer]:
    server = ScriptedServer(answer, tls)
    try:
        yield server
    finally:
        server.close()


def ranged(content: bytes) -> Callable[[Request], Reply]:
    """Serves ranges of ``content`` at any path, as object storage does."""

    def answer(request: Request) -> Reply:
        span = request.headers.get("Range")
        if span is None:
            return Reply(200, {}, content)
        first, last = map(int, span.removeprefix("bytes=").split("-"))
        body = content[first : last + 1]
        return Reply(206, {"Content-Range": f"bytes {first}-{last}/{len(content)}"}, body)

    return answer
