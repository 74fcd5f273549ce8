"""The digests of many files, with a few threads: sha256 releases the GIL."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from snapshotter.artifact.digest import Digest
from snapshotter.buffers import page_aligned
from snapshotter.opening import open_resolved
from snapshotter.pack.errors import BuildError, SourceChanged
from snapshotter.pack.progress import Progress

_PIECE = 1 << 20
_THREADS = max(2, min(4, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class Job:
    """``header``, the file's bytes and ``trailer`` zeros make the blob."""

    source: Path
    size: int
    mtime_ns: int
    header: bytes = b""
    trailer: int = 0


def hash_all(jobs: Sequence[Job], progress: Progress) -> dict[Job, Digest]:
    """Hash each distinct job once, the largest first; the first error stops the others."""
    stop = threading.Event()
    unique = sorted(set(jobs), key=lambda job: -job.size)
    progress.total(sum(job.size for job in unique))
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="modelpack-hash") as threads:
        try:
            futures = {job: threads.submit(_hash, job, progress, stop) for job in unique}
            return {job: future.result() for job, future in futures.items()}
        finally:
            stop.set()
            threads.shutdown(cancel_futures=True)


def _hash(job: Job, progress: Progress, stop: threading.Event) -> Digest:
    sha = hashlib.sha256(job.header)
    buffer = page_aligned(_PIECE)
    left = job.size
    try:
        with open_resolved(job.source) as file:
            while left > 0 and not stop.is_set() and (got := file.readinto(buffer)):
                sha.update(buffer[: min(got, left)])
                left -= got
                progress.advance(got)
            status = os.fstat(file.fileno())
    except OSError as error:
        raise BuildError(f"{job.source} cannot be read: {error.strerror}") from None
    if (status.st_size, status.st_mtime_ns) != (job.size, job.mtime_ns):
        raise SourceChanged(f"{job.source} changed while it was read: build again when it is done")
    sha.update(bytes(job.trailer))
    return Digest(f"sha256:{sha.hexdigest()}")
