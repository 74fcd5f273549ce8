"""A blob's origin for tests: a real HTTP server on loopback, and what reads from it.

The server counts what it is asked and what it sends, and fails as it is told.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from snapshotter.registry.errors import NotFound, Overloaded, Unreachable


class BlobServer(socketserver.ThreadingTCPServer):
    """Serves ranges of one file. ``before`` sees each request's range and may answer instead."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[tuple[int, int]] = []
        self.sent_bytes = 0
        self.counting = threading.Lock()
        self.before: Callable[[Answer, int, int], bool] = lambda answer, start, end: False
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def port(self) -> int:
        return self.server_address[1]


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: BlobServer
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        start, end = (int(n) for n in re.findall(r"\d+", self.headers["Range"]))
        end += 1
        with self.server.counting:
            self.server.requests.append((start, end))
        if not self.server.before(self, start, end):
            self.send_range(start, end)

    def send_range(self, start: int, end: int, *, until: int | None = None) -> None:
        """Promise ``[start, end)`` and send it, or only up to ``until`` and hang up."""
        self.send_response(206)
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        stop = end if until is None else until
        with open(self.server.path, "rb") as file, contextlib.suppress(OSError):
            while start < stop:
                piece = min(start + (64 << 10), stop)
                with self.server.counting:  # before: who has received it must find it counted
                    self.server.sent_bytes += piece - start
                while start < piece:
                    start += os.sendfile(
                        self.connection.fileno(), file.fileno(), start, piece - start
                    )
        if until is not None:
            self.hang_up()

    def fail(self, status: int) -> bool:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        return True

    def hang_up(self) -> bool:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        return True

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(path: Path) -> Iterator[BlobServer]:
    server = BlobServer(path)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class HttpOrigin:
    """Reads ranges of a :class:`BlobServer`, keeping connections."""

    def __init__(self, port: int, size: int, name: str = "registry.test/model@sha256:0") -> None:
        self.port, self.size, self.name = port, size, name
        self.distrusted = 0
        self._idle: list[http.client.HTTPConnection] = []

    def open(self, start: int, end: int) -> HttpBody:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/", headers={"Range": f"bytes={start}-{end - 1}"})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Unreachable(f"{self.name}: {error}", temporary=True) from error
        if response.status == 404:
            connection.close()
            raise NotFound(f"{self.name}: 404", status=404)
        if response.status != 206:
            connection.close()
            raise Overloaded(f"{self.name}: {response.status}", temporary=True)
        return HttpBody(self, connection, response)

    def distrust(self) -> None:
        self.distrusted += 1

    def keep(self, connection: http.client.HTTPConnection) -> None:
        self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


class HttpBody:
    def __init__(
        self,
        origin: HttpOrigin,
        connection: http.client.HTTPConnection,
        response: http.client.HTTPResponse,
    ) -> None:
        self._origin, self._connection, self._response = origin, connection, response
        self._open = True

    def readinto(self, buffer: memoryview) -> int:
        done = 0
        try:
            while done < len(buffer):
                count = self._response.readinto(buffer[done:])
                if count == 0:
                    break
                done += count
        except (OSError, http.client.HTTPException, ValueError, AttributeError) as error:
            raise Unreachable(f"{self._origin.name}: {error}", temporary=True) from error
        return done

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._response.isclosed():
            self._origin.keep(self._connection)
            return
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)
        self._response.close()
        self._connection.close()

    def __enter__(self) -> HttpBody:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
