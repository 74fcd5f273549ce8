"""How far away a registry really is."""

from __future__ import annotations

import time
from http.client import HTTPConnection

from snapshotter.bench.errors import BenchError
from snapshotter.bench.statistics import median

_REQUESTS = 9
_SECONDS = 70.0


def measure_round_trip(address: str, path: str) -> float:
    """Median seconds of requests for one byte of ``path`` at ``address`` (HOST:PORT, plain HTTP).

    On one connection that is open already. Raises :class:`BenchError`.
    """
    connection = HTTPConnection(address, timeout=_SECONDS)
    seconds = []
    try:
        for _ in range(_REQUESTS):
            started = time.monotonic()
            connection.request("GET", path, headers={"Range": "bytes=0-0"})
            answer = connection.getresponse()
            body = answer.read()
            seconds.append(time.monotonic() - started)
            if answer.status != 206 or len(body) != 1:
                raise BenchError(
                    f"http://{address}{path} answered {answer.status} and {len(body)} bytes to a "
                    "request for one byte: expected status 206"
                )
    finally:
        connection.close()
    return median(seconds[1:])  # the first one opened the connection
