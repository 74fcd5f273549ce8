"""All of a blob, hashed while it comes: waits until it is there and right, or says why not."""

from __future__ import annotations

import threading
from collections.abc import Callable

from snapshotter.cache.blob import HASH_STEP, Blob, BlobState
from snapshotter.cache.errors import DigestMismatch
from snapshotter.cache.verification import Verification
from snapshotter.copies.errors import CopyError, WrongBytes
from snapshotter.fetch.fetcher import Fetcher, LoadedModel, ReadResult


def gather(fetcher: Fetcher, model: LoadedModel, blob: Blob, stopped: Callable[[], bool]) -> None:
    """Return once ``blob`` of ``model`` is complete and verified, or raise when ``stopped``.

    Asks for the next byte that lacks, so whoever wants it to come in large ranges and in
    parallel asks the fetcher for that too (:meth:`Fetcher.prefetch`). Raises
    :class:`FetchError` when it does not come, :class:`WrongBytes`, and :class:`CopyError` or
    :class:`CacheError` when the disk does not take or give it.
    """
    hashed = Verification(blob.digest, blob.size)
    while blob.state is not BlobState.VERIFIED:
        if stopped():
            raise CopyError(f"{blob.digest}: not gathered any further")
        if blob.state is BlobState.BAD:  # the fetcher hashed it first
            raise WrongBytes(f"{model.name_of(blob)}: wrong bytes came, none of them is kept")
        if hashed.whole:
            try:
                if not blob.conclude(hashed):  # some were lost meanwhile
                    hashed = Verification(blob.digest, blob.size)
            except DigestMismatch as error:
                raise WrongBytes(f"{model.name_of(blob)}: {error}") from None
        elif hashed.advance(blob, HASH_STEP) == 0 and not hashed.whole:
            _demand(fetcher, model, blob, hashed.position)


def _demand(fetcher: Fetcher, model: LoadedModel, blob: Blob, position: int) -> None:
    """Wait for the first byte from ``position`` on that is not there."""
    gap = blob.first_gap(position, blob.size)
    if gap is None:
        return
    answered = threading.Event()
    answer: list[ReadResult] = []

    def deliver(result: ReadResult) -> None:
        answer.append(result)
        answered.set()

    losses = blob.losses
    fetcher.read(model, blob, gap[0], 1, None, deliver)
    answered.wait()
    if blob.state is BlobState.BAD:
        return  # which whoever asked for it will see
    if isinstance(answer[0], Exception):
        raise answer[0]
    there = blob.has(gap[0], gap[0] + 1) or blob.losses != losses
    if not there:
        raise CopyError(f"the disk takes no bytes at {blob.path.parent}: make room there")
