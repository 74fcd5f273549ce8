"""Pushing: what the registry lacks of a build, then the config, then the manifest."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.mediatypes import OCI_MANIFEST
from snapshotter.pack.progress import Progress, Silent
from snapshotter.pack.record import BuildStore, SourceBlob
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import RegistryError
from snapshotter.registry.reference import Reference

_T = TypeVar("_T")
_PARALLEL = 4
_ATTEMPTS = 5
_LONGEST_PAUSE = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did. Counts are of blobs, the config among them."""

    reference: Reference
    digest: Digest
    """Of the manifest."""
    pushed: int
    skipped: int
    """The registry had them already."""
    bytes: int
    """Sent in blobs that were pushed."""


class _Stopped(Exception):
    """Another blob has failed: this one need not go on."""


def push(
    reference: Reference,
    store: BuildStore,
    registry: Registry,
    *,
    progress: Progress | None = None,
) -> Pushed:
    """Upload the build of ``reference``; doing it again sends nothing twice.

    The manifest comes last, so whoever pulls meanwhile sees the old model or
    the new one. Raises :class:`~snapshotter.pack.errors.NoBuild`,
    :class:`~snapshotter.pack.errors.SourceChanged` or :class:`RegistryError`;
    temporary errors are tried again a few times.
    """
    record = store.load(reference)
    for blob in record.blobs:
        blob.check()
    upload = _Upload(reference, registry, progress or Silent())
    upload.progress.total(sum(blob.size for blob in record.blobs) + len(record.config))
    sent = upload.blobs(record.blobs)
    sent.append(upload.config(record.config))
    digest = upload.retried(
        partial(registry.put_manifest, reference, OCI_MANIFEST, record.manifest)
    )
    done = [size for size in sent if size is not None]
    return Pushed(reference, digest, len(done), len(sent) - len(done), sum(done))


class _Upload:
    """One push under way. Blobs answer how many bytes were sent, None when there before."""

    def __init__(self, reference: Reference, registry: Registry, progress: Progress) -> None:
        self.progress = progress
        self._reference = reference
        self._registry = registry
        self._stop = threading.Event()

    def blobs(self, blobs: tuple[SourceBlob, ...]) -> list[int | None]:
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="modelpack-push") as threads:
            try:
                futures = [
                    threads.submit(self._blob, Digest(b.digest), b.size, b.pieces) for b in blobs
                ]
                finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                return [future.result() for future in futures]
            finally:
                self._stop.set()
                threads.shutdown(cancel_futures=True)
                self._stop.clear()

    def config(self, raw: bytes) -> int | None:
        return self._blob(digest_of(raw), len(raw), lambda: iter((raw,)))

    def retried(self, request: Callable[[], _T]) -> _T:
        pause = 0.5
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return request()
            except RegistryError as error:
                if not error.temporary or attempt == _ATTEMPTS:
                    raise
                wanted = error.retry_after if error.retry_after is not None else pause
                log.info("trying again", attempt=attempt, after=str(error))
            if self._stop.wait(min(wanted, _LONGEST_PAUSE) * random.uniform(1, 1.5)):
                raise _Stopped
            pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def _blob(self, digest: Digest, size: int, pieces: Callable[[], Iterator[bytes]]) -> int | None:
        return self.retried(partial(self._attempt, digest, size, pieces))

    def _attempt(
        self, digest: Digest, size: int, pieces: Callable[[], Iterator[bytes]]
    ) -> int | None:
        if self._registry.has_blob(self._reference, digest):
            self.progress.advance(size)
            return None
        told = 0

        def body() -> Iterator[bytes]:
            nonlocal told
            self.progress.advance(-told)
            told = 0
            for piece in pieces():
                if self._stop.is_set():
                    raise _Stopped
                yield piece
                told += len(piece)
                self.progress.advance(len(piece))

        try:
            self._registry.upload_blob(self._reference, digest, size, body)
        except BaseException:
            self.progress.advance(-told)
            raise
        return size
