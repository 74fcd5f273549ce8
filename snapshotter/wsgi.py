"""A WSGI application on a socket, in a thread of its own: waitress, made to stop."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

from waitress import wasyncore  # type: ignore[import-untyped]
from waitress.server import create_server  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_HEADERS_LIMIT = 32 << 10
_BODY_LIMIT = 64 << 10


class WsgiServer:
    """Serves ``application`` on ``listener``, a bound stream socket, from `start` to `stop`."""

    def __init__(
        self, application: WSGIApplication, listener: socket.socket, *, name: str, threads: int
    ) -> None:
        self._map: dict[int, wasyncore.dispatcher] = {}
        self._server = create_server(
            application,
            map=self._map,
            sockets=[listener],
            threads=threads,
            ident="modelpack-snapshotter",
            max_request_header_size=_HEADERS_LIMIT,
            max_request_body_size=_BODY_LIMIT,
            clear_untrusted_proxy_headers=True,
        )
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and every connection; answers under way are cut off. Idempotent."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._server.pull_trigger()
        if self._thread.is_alive():
            self._thread.join()
        self._server.task_dispatcher.shutdown()
        wasyncore.close_all(self._map)

    def _run(self) -> None:
        # poll, not select: the daemon has more than 1,024 descriptors open.
        while not self._stopping.is_set():
            wasyncore.loop(timeout=5.0, use_poll=True, map=self._map, count=1)
