"""The management API: what the daemon says of itself, as JSON over HTTP on a unix socket.

``GET /v1/status``, ``GET /v1/models`` (``?manifest=sha256:...`` for one and its blobs), see
:mod:`snapshotter.holdings`, and ``POST /v1/verify`` (the same), which answers a line of JSON at
a time, see :mod:`snapshotter.audits`. Whoever may open the socket (mode 0600) may ask.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from snapshotter import __version__
from snapshotter.artifact.digest import parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.audits import Audits, NothingKnown
from snapshotter.cache.store import BlobStore
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.holdings import Holdings
from snapshotter.keeper.keeping import Keeping
from snapshotter.mounts.table import Mounts
from snapshotter.registry.client import Registry
from snapshotter.sockets import listen_unix
from snapshotter.wsgi import WsgiServer

Status = Callable[[], dict[str, Any]]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


def status_of(
    store: BlobStore,
    fetcher: Fetcher,
    mounts: Mounts,
    registry: Registry,
    keeper: Keeping | None = None,
) -> Status:
    """A function that describes these as they are when it is called.

    Sizes in bytes, times in seconds; ``present_bytes`` counts what is on this
    node's disk of each model, each blob once.
    """
    started = time.time()

    def status() -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "uptime_seconds": round(time.time() - started, 3),
            "memory": {"rss_anon_bytes": rss_anon()},
            "cache": {"path": str(store.root), "allocated_bytes": store.allocated()},
            "fetched_bytes": fetcher.stats.fetched_bytes,
            "requests": fetcher.stats.requests,
            "rate_bytes_per_second": fetcher.stats.rate(),
            "verification": {
                "verified_blobs": fetcher.stats.verified_blobs,
                "wrong_blobs": fetcher.stats.wrong_blobs,
                "right_chunks": fetcher.stats.right_chunks,
                "wrong_chunks": fetcher.stats.wrong_chunks,
            },
            "hosts": registry.describe(),
            "keeper": keeper.describe() if keeper is not None else None,
            "models": [mounted.describe() for mounted in mounts.mounted()],
        }

    return status


class ApiServer:
    """Serves a :data:`Status` on a unix socket, in a thread of its own."""

    def __init__(
        self,
        address: Path,
        status: Status,
        audits: Audits | None = None,
        holdings: Holdings | None = None,
    ) -> None:
        self._address = address
        listener = listen_unix(address)
        self._server = WsgiServer(
            _application(status, audits, holdings), listener, name="modelpack-api", threads=2
        )

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.stop()
        self._address.unlink(missing_ok=True)


def rss_anon() -> int:
    """Bytes of anonymous memory of this process, ``RssAnon`` of proc_pid_status(5)."""
    match = re.search(r"^RssAnon:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(match[1]) * 1024 if match else 0


def _application(
    status: Status, audits: Audits | None, holdings: Holdings | None
) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/v1/verify" and audits is not None:
            if environ["REQUEST_METHOD"] != "POST":
                return _answer(start_response, "405 Method Not Allowed", {"error": "use POST"})
            return _verify(audits, environ["QUERY_STRING"], start_response)
        if environ["PATH_INFO"] == "/v1/models" and holdings is not None:
            if environ["REQUEST_METHOD"] != "GET":
                return _answer(start_response, "405 Method Not Allowed", {"error": "use GET"})
            return _models(holdings, environ["QUERY_STRING"], start_response)
        if environ["PATH_INFO"] != "/v1/status":
            return _answer(start_response, "404 Not Found", {"error": "known is GET /v1/status"})
        if environ["REQUEST_METHOD"] != "GET":
            return _answer(start_response, "405 Method Not Allowed", {"error": "use GET"})
        return _answer(start_response, "200 OK", status())

    return application


def _models(holdings: Holdings, query: str, start_response: StartResponse) -> Iterable[bytes]:
    asked = parse_qs(query).get("manifest")
    if not asked:
        return _answer(start_response, "200 OK", {"models": holdings.all()})
    try:
        model = holdings.one(parse_digest(asked[0]))
    except ArtifactError as error:
        return _answer(start_response, "400 Bad Request", {"error": str(error)})
    return _answer(start_response, "200 OK", {"models": [] if model is None else [model]})


def _verify(audits: Audits, query: str, start_response: StartResponse) -> Iterable[bytes]:
    try:
        asked = parse_qs(query).get("manifest")
        lines = audits.run(parse_digest(asked[0]) if asked else None)
    except ArtifactError as error:
        return _answer(start_response, "400 Bad Request", {"error": str(error)})
    except NothingKnown as error:
        return _answer(start_response, "404 Not Found", {"error": str(error)})
    except ModelpackError as error:
        return _answer(start_response, "409 Conflict", {"error": str(error)})
    start_response("200 OK", [("Content-Type", "application/x-ndjson")])
    return (json.dumps(line).encode() + b"\n" for line in lines)


def _answer(start_response: StartResponse, line: str, body: dict[str, Any]) -> Iterable[bytes]:
    data = json.dumps(body).encode() + b"\n"
    start_response(line, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
