"""Downloads blobs to files with parallel ranges: the baseline where there is no aria2c.

Through the registry client, so it reaches every registry the node reaches. What a good
downloader does and no more: ranges of 8 MiB, a thread each, straight from the socket into the
file.
"""

from __future__ import annotations

import json
import os
import queue
import resource
import sys
import threading
import time
from typing import Any

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import parse_digest
from snapshotter.bench.children.talk import answer_all
from snapshotter.buffers import page_aligned
from snapshotter.config import parse_config
from snapshotter.errors import ModelpackError
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference

_PIECE = 1 << 20


class Download:
    """All blobs of one request, by ``connections`` threads."""

    def __init__(self, registry: Registry, told: dict[str, Any]) -> None:
        reference = Reference.parse(told["reference"])
        self._range: int = told["range"]
        self._connections: int = told["connections"]
        self._work: queue.SimpleQueue[tuple[BlobOrigin, int, int, int]] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._files: list[int] = []
        for digest, size, path in told["blobs"]:
            descriptor = Descriptor("application/octet-stream", parse_digest(digest), size)
            origin = registry.origin(reference.registry, reference.repository, descriptor)
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._files.append(fd)
            # A whole blob by one connection where ranges would only split it.
            step = size if self._connections == 1 else self._range
            for start in range(0, size, step):
                self._work.put((origin, fd, start, min(size, start + step)))

    def run(self) -> dict[str, Any]:
        before = resource.getrusage(resource.RUSAGE_SELF)
        started = time.monotonic()
        threads = [threading.Thread(target=self._take) for _ in range(self._connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ended = time.monotonic()
        for fd in self._files:
            os.close(fd)
        after = resource.getrusage(resource.RUSAGE_SELF)
        if self._errors:
            return {"error": self._errors[0]}
        return {
            "started": started,
            "ended": ended,
            "user": after.ru_utime - before.ru_utime,
            "system": after.ru_stime - before.ru_stime,
        }

    def _take(self) -> None:
        buffer = page_aligned(_PIECE)
        while not self._errors:
            try:
                origin, fd, start, end = self._work.get_nowait()
            except queue.Empty:
                return
            try:
                with origin.open(start, end) as body:
                    while count := body.readinto(buffer):
                        os.pwrite(fd, buffer[:count], start)
                        start += count
            except (ModelpackError, OSError) as error:
                self._errors.append(str(error))


def main() -> None:
    registry = Registry(parse_config(json.loads(sys.argv[1]), "the benchmark").registry)
    answer_all(lambda told: Download(registry, told).run())


if __name__ == "__main__":
    main()
