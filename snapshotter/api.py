"""The management API: what the daemon says of itself, as JSON over HTTP on a unix socket.

``GET /v1/status``; ``GET /v1/models`` (``?manifest=sha256:...`` for one and its blobs), see
:mod:`snapshotter.holdings`; ``POST /v1/verify`` (the same), which answers a line of JSON at
a time, see :mod:`snapshotter.audits`; ``POST /v1/gc`` (``?all=1``, ``?dry_run=1``), see
:mod:`snapshotter.garbage`; ``POST /v1/pin`` and ``/v1/unpin`` (``?reference=...``), see
:mod:`snapshotter.pinning`. Whoever may open the socket (mode 0600) may ask.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from msgspec import to_builtins

from snapshotter import __version__
from snapshotter.artifact.digest import parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.audits import Audits, NothingKnown
from snapshotter.cache.evictor import Evictor
from snapshotter.cache.pins import NotPinned
from snapshotter.cache.store import BlobStore
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.garbage import Garbage
from snapshotter.holdings import Holdings
from snapshotter.keeper.keeping import Keeping
from snapshotter.mounts.table import Mounts
from snapshotter.pinning import Pinning
from snapshotter.registry.client import Registry
from snapshotter.sockets import listen_unix
from snapshotter.wsgi import WsgiServer

Status = Callable[[], dict[str, Any]]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
_Answerer = Callable[[str], dict[str, Any]]


def status_of(
    store: BlobStore,
    fetcher: Fetcher,
    mounts: Mounts,
    registry: Registry,
    keeper: Keeping | None = None,
    *,
    evictor: Evictor | None = None,
    pinning: Pinning | None = None,
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
            "cache": {
                "path": str(store.root),
                "allocated_bytes": store.allocated(),
                "allowed_bytes": store.space.allowed,
                "quota": str(store.options.quota),
                "keep_free": str(store.options.keep_free),
                "evicted_bytes": evictor.evicted_bytes if evictor is not None else 0,
                "pins": pinning.describe() if pinning is not None else [],
            },
            "fetched_bytes": fetcher.stats.fetched_bytes,
            "requests": fetcher.stats.requests,
            "rate_bytes_per_second": fetcher.stats.rate(),
            "verification": {
                "verified_blobs": fetcher.stats.verified_blobs,
                "wrong_blobs": fetcher.stats.wrong_blobs,
                "right_chunks": fetcher.stats.right_chunks,
                "wrong_chunks": fetcher.stats.wrong_chunks,
                "quarantined": [
                    {**to_builtins(one), "asked_again_at": one.again_at}
                    for one in store.quarantine.records()
                ],
            },
            "hosts": registry.describe(),
            "keeper": keeper.describe() if keeper is not None else None,
            "models": [mounted.describe() for mounted in mounts.mounted()],
        }

    return status


class ApiServer:
    """Serves a :data:`Status` on a unix socket, in a thread of its own; and what else it is
    given."""

    def __init__(
        self,
        address: Path,
        status: Status,
        audits: Audits | None = None,
        holdings: Holdings | None = None,
        *,
        garbage: Garbage | None = None,
        pinning: Pinning | None = None,
    ) -> None:
        self._address = address
        listener = listen_unix(address)
        routes: dict[str, tuple[str, _Answerer]] = {"/v1/status": ("GET", lambda _: status())}
        if holdings is not None:
            routes["/v1/models"] = ("GET", lambda query: _models(holdings, query))
        if garbage is not None:
            routes["/v1/gc"] = ("POST", lambda query: _collect(garbage, query))
        if pinning is not None:
            routes["/v1/pin"] = ("POST", lambda query: pinning.pin(_reference(query)))
            routes["/v1/unpin"] = ("POST", lambda query: pinning.unpin(_reference(query)))
        self._server = WsgiServer(
            _application(routes, audits), listener, name="modelpack-api", threads=2
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
    routes: Mapping[str, tuple[str, _Answerer]], audits: Audits | None
) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    def application(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        verify = path == "/v1/verify" and audits is not None
        if not verify and path not in routes:
            known = {"error": f"known are {', '.join(sorted(routes))}"}
            return _answer(start_response, "404 Not Found", known)
        expected, answerer = ("POST", None) if verify else routes[path]
        if method != expected:
            error = {"error": f"use {expected}"}
            return _answer(start_response, "405 Method Not Allowed", error)
        try:
            if answerer is not None:
                return _answer(start_response, "200 OK", answerer(environ["QUERY_STRING"]))
            assert audits is not None
            return _verify(audits, environ["QUERY_STRING"], start_response)
        except ArtifactError as error:
            return _answer(start_response, "400 Bad Request", {"error": str(error)})
        except (NothingKnown, NotPinned) as error:
            return _answer(start_response, "404 Not Found", {"error": str(error)})
        except ModelpackError as error:
            return _answer(start_response, "409 Conflict", {"error": str(error)})

    return application


def _collect(garbage: Garbage, query: str) -> dict[str, Any]:
    asked = parse_qs(query)
    return garbage.collect(everything="all" in asked, dry_run="dry_run" in asked).describe()


def _reference(query: str) -> str:
    """Raises :class:`ArtifactError` when there is none."""
    asked = parse_qs(query).get("reference")
    if not asked:
        raise ArtifactError("which model? say ?reference=REGISTRY/NAME:TAG")
    return asked[0]


def _models(holdings: Holdings, query: str) -> dict[str, Any]:
    asked = parse_qs(query).get("manifest")
    if not asked:
        return {"models": holdings.all()}
    model = holdings.one(parse_digest(asked[0]))
    return {"models": [] if model is None else [model]}


def _verify(audits: Audits, query: str, start_response: StartResponse) -> Iterable[bytes]:
    asked = parse_qs(query).get("manifest")
    lines = audits.run(parse_digest(asked[0]) if asked else None)
    start_response("200 OK", [("Content-Type", "application/x-ndjson")])
    return (json.dumps(line).encode() + b"\n" for line in lines)


def _answer(start_response: StartResponse, line: str, body: dict[str, Any]) -> Iterable[bytes]:
    data = json.dumps(body).encode() + b"\n"
    start_response(line, [("Content-Type", "application/json"), ("Content-Length", str(len(data)))])
    return [data]
