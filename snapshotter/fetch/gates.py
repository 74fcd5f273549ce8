"""Which blobs have a gate, and the threads that gates work in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import structlog

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.cache.blob import Blob
from snapshotter.fetch.gate import Below, ChunkGate, Gate
from snapshotter.fetch.strict import StrictGate
from snapshotter.fetch.verify_options import VerifyOptions

log = structlog.get_logger(__name__)

_THREADS = 2


def gate_of(
    blob: Blob, chunks: ChunkDigests | None, options: VerifyOptions, below: Below
) -> Gate | None:
    """What stands before ``blob``; None when its bytes may be served as they come."""
    if blob.size == 0:
        return None
    if chunks is not None:
        return ChunkGate(blob, chunks, below)
    return StrictGate(blob, below) if options.mode == "strict" else None


class Crew:
    """Threads for what must not be done in one that answers the kernel; none before the first."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="modelpack-gate")

    def submit(self, work: Callable[[], None]) -> None:
        """Do it soon, or never once it is closed."""
        try:
            self._threads.submit(_logged, work)
        except RuntimeError:
            pass  # closed: gates fail who waits

    def close(self, gates: Iterable[Gate]) -> None:
        """Do nothing more, and fail who waits at ``gates``. Idempotent."""
        self._threads.shutdown(cancel_futures=True)
        for gate in gates:
            gate.close()


def _logged(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception:
        log.exception("a gate failed unexpectedly")
