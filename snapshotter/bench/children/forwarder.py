"""A TCP forwarder that makes a distance: every exchange takes a round trip, rates can be limited.

What clients send is held for one round trip, and nothing leaves in the first round trip of a
connection (the handshake of TCP); answers pass at once, spliced inside the kernel. For request
and answer that is the same as half of it each way. Not imitated: slow start, loss, jitter. So
it flatters one long stream, such as a plain download, more than it does many short ranges.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from snapshotter.bench.children.talk import answer_all

_PIPE = 1 << 20
_SMALL = 64 << 10


class Rate:
    """At most ``limit`` bytes a second through all who ask it; 0 is no limit. Thread-safe."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def delay(self, count: int) -> float:
        """Seconds to wait after ``count`` bytes went through."""
        if not self.limit:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self.limit
            return self._free_at - now


class Forwarder:
    """Listens on loopback and connects to ``target``; counts what passes."""

    def __init__(self, target: tuple[str, int], rtt: float, rate: int = 0) -> None:
        self._target = target
        self._rtt = rtt
        self._rate = Rate(rate)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self.connections = 0
        self.sent_bytes = 0
        self.answered_bytes = 0
        self.held = 0
        """How many pieces were held back for a round trip."""
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="forward-accept", daemon=True).start()

    def close(self) -> None:
        """Stop listening and cut every connection."""
        with self._lock:
            ends, self._open = list(self._open), set()
        for end in (self._listener, *ends):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # not connected any more
            end.close()

    def stats(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "sent_bytes": self.sent_bytes,
            "answered_bytes": self.answered_bytes,
            "held": self.held,
        }

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            try:
                server = socket.create_connection(self._target, timeout=10)
                server.settimeout(None)
            except OSError as error:
                print(f"cannot reach {self._target}: {error}", file=sys.stderr)
                client.close()
                continue
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                self._open |= {client, server}
            self._start(client, server)

    def _start(self, client: socket.socket, server: socket.socket) -> None:
        waiting: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        for target, arguments in (
            (self._listen_to, (client, waiting)),
            (self._pass_on, (server, waiting)),
            (self._answer, (server, client)),
        ):
            threading.Thread(target=target, args=arguments, name="forward", daemon=True).start()

    def _listen_to(
        self, client: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]
    ) -> None:
        connected = time.monotonic() + self._rtt
        data = b"?"
        while data:
            try:
                data = client.recv(_SMALL)
            except OSError:
                data = b""
            with self._lock:
                self.sent_bytes += len(data)
                self.held += self._rtt > 0 and len(data) > 0
            waiting.put((max(time.monotonic(), connected) + self._rtt, data))

    def _pass_on(
        self, server: socket.socket, waiting: queue.SimpleQueue[tuple[float, bytes]]
    ) -> None:
        while True:
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not data:
                    server.shutdown(socket.SHUT_WR)
                    return
                server.sendall(data)
            except OSError:
                return  # the other direction ends as well, and closes

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        out, into = os.pipe()
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, _PIPE)
        # With a limit in small pieces: a burst of a MiB is no 10 MB/s.
        most = _SMALL if self._rate.limit else _PIPE
        try:
            while count := os.splice(server.fileno(), into, most):
                with self._lock:
                    self.answered_bytes += count
                time.sleep(self._rate.delay(count)) if self._rate.limit else None
                while count:
                    count -= os.splice(out, client.fileno(), count)
        except (OSError, ValueError):
            pass  # one of the two has gone
        finally:
            os.close(out)
            os.close(into)
            self._drop(server, client)

    def _drop(self, *ends: socket.socket) -> None:
        with self._lock:
            self._open -= set(ends)
        for end in ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


def main() -> None:
    told = json.loads(sys.argv[1])
    host, _, port = told["target"].rpartition(":")
    forwarder = Forwarder((host, int(port)), told["rtt"], told["rate"])
    answer_all(lambda _: {"address": forwarder.address, **forwarder.stats()})


if __name__ == "__main__":
    main()
