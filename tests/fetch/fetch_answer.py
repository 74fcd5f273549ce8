"""What a read of the fetcher is answered."""

from __future__ import annotations

import threading

from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import ReadResult


class Answer:
    """What was delivered; more than one delivery is an error."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self.results: list[bytes | FetchError] = []

    def deliver(self, result: ReadResult) -> None:
        self.results.append(result if isinstance(result, FetchError) else b"".join(result))
        self._there.set()

    def get(self) -> bytes:
        assert self._there.wait(60), "never answered"
        (result,) = self.results
        if isinstance(result, FetchError):
            raise result
        return result
