"""One blob on a server, and a cache with bounds and quarantine that fetches it."""

from __future__ import annotations

import random
from pathlib import Path

from fetch_answer import Answer
from fetch_origin import BlobServer, HttpOrigin

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.artifact.digest import digest_of
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.fetch.fetcher import Fetcher, LoadedModel
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.verify_options import VerifyOptions
from snapshotter.units import Seconds

KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB + 1234
CONTENT = random.Random(5).randbytes(SIZE)
DIGEST = digest_of(CONTENT)
QUICK = {"first_backoff": Seconds(0.01), "max_backoff": Seconds(0.02)}


class Node:
    def __init__(
        self,
        cache: Path,
        server: BlobServer,
        *,
        options: FetchOptions | None = None,
        verify: VerifyOptions | None = None,
        chunks: ChunkDigests | None = None,
        bounds: CacheOptions | None = None,
    ) -> None:
        self.server = server
        self.store = BlobStore(cache, bounds or CacheOptions())
        self.fetcher = Fetcher(
            options or FetchOptions(background=False, **QUICK),
            verify,
            space=self.store.space,
            quarantine=self.store.quarantine,
        )
        self.blob = self.store.open(DIGEST, SIZE)
        self.origin = HttpOrigin(server.port, SIZE)
        self.chunks = {DIGEST: chunks} if chunks is not None else {}
        self.model: LoadedModel = self.fetcher.add_model([(self.blob, self.origin)], self.chunks)

    def ask(self, offset: int, size: int, stream: object = "file") -> Answer:
        answer = Answer()
        self.fetcher.read(self.model, self.blob, offset, size, stream, answer.deliver)
        return answer

    def read(self, offset: int, size: int, stream: object = "file") -> bytes:
        return self.ask(offset, size, stream).get()

    def read_forward(self, step: int = MIB) -> bytes:
        return b"".join(self.read(offset, step) for offset in range(0, SIZE, step))

    def close(self) -> None:
        self.fetcher.close()
        self.store.close()
        self.origin.close()
