"""Hashing again what the cache says it has: disks rot, and a verified blob is not read again.

What is found wrong is dropped, so that the next read fetches it anew.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from enum import StrEnum

from snapshotter.artifact.chunks import ChunkDigests
from snapshotter.artifact.digest import Digest, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.buffers import page_aligned
from snapshotter.cache.blob import HASH_STEP, Blob
from snapshotter.cache.documents import parse_name
from snapshotter.cache.errors import CacheError, DigestMismatch, Unreadable
from snapshotter.cache.store import BlobStore
from snapshotter.cache.verification import Verification


class Verdict(StrEnum):
    VERIFIED = "verified"
    """Every byte is there, and right."""
    PARTIAL = "partial"
    """Not every byte is there; what could be checked is right."""
    BAD = "bad"
    """Bytes were wrong; they were dropped."""
    UNREADABLE = "unreadable"
    """The disk did not give the bytes, so all were dropped, or they were lost meanwhile."""


@dataclass(frozen=True, slots=True)
class Target:
    """A blob to look at; with the digests of its chunks, also parts of it can be checked."""

    digest: Digest
    size: int
    chunks: ChunkDigests | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a blob was found to be; sizes in bytes."""

    digest: Digest
    size: int
    present: int
    """Before anything was dropped."""
    checked: int
    """Of these, hashed: of a partial blob only whole chunks of a trusted list."""
    dropped: int
    verdict: Verdict
    detail: str = ""


def on_disk(store: BlobStore, targets: list[Target]) -> list[Target]:
    """Those of ``targets`` of which the cache has anything at all; opens none."""
    return [target for target in targets if (store.directory(target.digest) / "data").exists()]


def everything(store: BlobStore) -> list[Target]:
    """All blobs of the cache, in use or not."""
    found = []
    for data in sorted((store.root / "blobs").glob("*/*/data")):
        try:
            digest = parse_name(data.parent.parent.name, data.parent.name)
            found.append(Target(digest, data.stat().st_size))
        except (ArtifactError, OSError):
            continue  # nothing of ours, or evicted meanwhile
    return found


def audit(
    store: BlobStore,
    target: Target,
    on_wrong: Callable[[Blob, CacheError], None] = lambda *_: None,
) -> Generator[int, None, Finding]:
    """Hash what there is of ``target``, and drop what is wrong.

    Yields bytes as they are hashed; closing it stops it. ``on_wrong`` is told a blob of
    which something was dropped.
    """
    present = checked = dropped = 0
    detail = ""
    try:
        blob = store.open(target.digest, target.size)
        present = blob.present_bytes
        hashed = Verification(blob.digest, blob.size)
        if present == blob.size:
            while not hashed.whole and (count := hashed.advance(blob, HASH_STEP)):
                checked += count
                yield count
        suspect = hashed.whole and hashed.hexdigest() != encoded(blob.digest)
        if target.chunks is not None and (suspect or present < blob.size):
            for start, end, right in _chunks(blob, target.chunks):
                checked += 0 if suspect else end - start
                yield 0 if suspect else end - start
                if not right:
                    blob.drop(start, end)
                    dropped += end - start
        if dropped:
            detail = f"{dropped} bytes were wrong and will be fetched again"
            on_wrong(blob, CacheError(f"{blob.digest}: {detail}"))
        elif present == blob.size and not blob.conclude(hashed):
            raise CacheError("bytes were lost while they were hashed")
    except DigestMismatch as error:
        detail, dropped = str(error), present
        on_wrong(blob, error)
    except CacheError as error:
        if isinstance(error, Unreadable):
            blob.lose()
            on_wrong(blob, error)
        verdict, detail = Verdict.UNREADABLE, str(error)
        return Finding(target.digest, target.size, present, checked, 0, verdict, detail)
    verdict = Verdict.VERIFIED if present == target.size else Verdict.PARTIAL
    if dropped:
        verdict = Verdict.BAD
    return Finding(target.digest, target.size, present, checked, dropped, verdict, detail)


def _chunks(blob: Blob, chunks: ChunkDigests) -> Iterator[tuple[int, int, bool]]:
    """Each chunk all of which is there, and whether it is right."""
    buffer = page_aligned(max(1, min(chunks.chunk_size, blob.size)))
    for number in range(len(chunks)):
        start, end = chunks.span(number)
        losses = blob.losses
        if not blob.has(start, end):
            continue
        blob.readinto(start, buffer[: end - start])
        right = chunks.right(number, buffer[: end - start])
        if right:
            blob.vouch(start, end, losses)
        if blob.losses == losses:
            yield start, end, right
