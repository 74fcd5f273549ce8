"""A registry of our own for reading: manifests from memory, ranges of blobs by sendfile.

For nodes without docker-registry, and for models that exist as sparse files only. Serves
blobs from the files they were made of, so nothing is pushed. GET and HEAD, one range a
request, nothing else of the distribution specification.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from snapshotter.bench.children.talk import answer_all

_PATH = re.compile(r"/v2/(.+)/(manifests|blobs)/([^/?]+)(?:\?.*)?")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_SENDFILE = 0x7FFFF000
"""The most sendfile(2) takes at once."""


class Shelf:
    """What is served. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.manifests: dict[str, tuple[str, str, bytes]] = {}
        """Repository and tag, or repository and digest: media type, digest, bytes."""
        self.blobs: dict[str, tuple[str, int]] = {}
        """Digest: path and size."""
        self.requests = 0
        self.sent_bytes = 0

    def put(self, told: dict[str, Any]) -> None:
        entry = (told["media_type"], told["digest"], told["manifest"].encode())
        with self._lock:
            for name in (told["tag"], told["digest"]):
                self.manifests[f"{told['repository']}/{name}"] = entry
            self.blobs |= {digest: (path, size) for digest, path, size in told["blobs"]}

    def count(self, sent: int) -> None:
        with self._lock:
            self.requests += 1
            self.sent_bytes += sent


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 16 << 10
    server: Origin

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads an access log of a benchmark."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.path in ("/v2", "/v2/"):
            self._bytes(200, "application/json", b"{}", {})
            return
        asked = _PATH.fullmatch(self.path)
        shelf = self.server.shelf
        if asked and asked[2] == "manifests" and f"{asked[1]}/{asked[3]}" in shelf.manifests:
            media_type, digest, raw = shelf.manifests[f"{asked[1]}/{asked[3]}"]
            self._bytes(200, media_type, raw, {"Docker-Content-Digest": digest})
        elif asked and asked[2] == "blobs" and asked[3] in shelf.blobs:
            self._blob(asked[3], *shelf.blobs[asked[3]])
        else:
            self._bytes(404, "application/json", b'{"errors":[{"code":"NOT_FOUND"}]}', {})

    def _bytes(self, status: int, media_type: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.server.shelf.count(0)

    def _blob(self, digest: str, path: str, size: int) -> None:
        start, end = 0, size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked:
            start = int(asked[1])
            end = min(size, int(asked[2]) + 1) if asked[2] else size
            if start >= end:
                self._bytes(416, "text/plain", b"", {"Content-Range": f"bytes */{size}"})
                return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Docker-Content-Digest", digest)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.flush()
            self.server.shelf.count(end - start)
            self._send(path, start, end)

    def _send(self, path: str, start: int, end: int) -> None:
        with open(path, "rb", buffering=0) as file:
            while start < end:
                sent = os.sendfile(
                    self.connection.fileno(), file.fileno(), start, min(end - start, _SENDFILE)
                )
                if sent == 0:
                    raise ConnectionError(f"{path} is shorter than it was said to be")
                start += sent


class Origin(ThreadingHTTPServer):
    """Listens on loopback; a thread for each connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shelf = Shelf()
        self.address = f"127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, name="origin", daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Clients that close early are what a benchmark is made of; anything else is said."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, socket.timeout)):
            print(f"answering {client_address}: {error}", file=sys.stderr)

    def answer(self, told: dict[str, Any]) -> dict[str, Any]:
        if "put" in told:
            self.shelf.put(told["put"])
        return {
            "address": self.address,
            "requests": self.shelf.requests,
            "sent_bytes": self.shelf.sent_bytes,
        }


def main() -> None:
    answer_all(Origin().answer)


if __name__ == "__main__":
    main()
