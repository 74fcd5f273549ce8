"""Blobs that came wrong: how often, when, and as what. No byte of them is kept.

A small file each, ``<root>/quarantine/<algorithm>-<hex>``, until the blob has come right.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import structlog

from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.cache import durable

log = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 10.0, 3600.0
"""Seconds until a wrong blob is asked for again; doubled each time it comes wrong again."""


class WrongBlob(msgspec.Struct, frozen=True, kw_only=True):
    """The last time a blob came wrong."""

    digest: str
    size: int
    sources: list[str]
    """What it was fetched as, registries and repositories."""
    why: str
    at: float
    """Seconds since the epoch."""
    times: int
    """How often in a row."""

    @property
    def again_at(self) -> float:
        """When it is asked for again, seconds since the epoch."""
        return self.at + min(FIRST_PAUSE * 2.0 ** min(self.times - 1, 30), LONGEST_PAUSE)


class Quarantine:
    """The records below ``root``. Thread-safe. A record that cannot be written is logged."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._records: dict[str, WrongBlob] = {}
        for path in sorted(root.glob("*-*")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=WrongBlob)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError):
                continue  # torn or another's: it is only a note
            self._records[record.digest] = record

    def records(self) -> list[WrongBlob]:
        with self._lock:
            return list(self._records.values())

    def get(self, digest: Digest) -> WrongBlob | None:
        return self._records.get(digest)

    def condemn(self, digest: Digest, size: int, sources: Iterable[str], why: str) -> WrongBlob:
        with self._lock:
            before = self._records.get(digest)
            record = self._records[digest] = WrongBlob(
                digest=digest,
                size=size,
                sources=sorted(sources),
                why=why,
                at=time.time(),
                times=before.times + 1 if before else 1,
            )
        pause = record.again_at - record.at
        log.error(
            "blob quarantined",
            digest=digest,
            sources=record.sources,
            times=record.times,
            asked_again_in=pause,
            why=why,
        )
        try:
            self._root.mkdir(mode=0o700, exist_ok=True)
            durable.replace(self._path(digest), msgspec.json.encode(record))
        except OSError as error:
            log.warning("quarantine not recorded", digest=digest, error=str(error))
        return record

    def acquit(self, digest: Digest) -> None:
        """It has come right."""
        with self._lock:
            if self._records.pop(digest, None) is None:
                return
        log.info("a blob that came wrong has come right", digest=digest)
        try:
            self._path(digest).unlink(missing_ok=True)
        except OSError as error:
            log.warning("quarantine record left", digest=digest, error=str(error))

    def _path(self, digest: Digest) -> Path:
        return self._root / f"{algorithm(digest)}-{encoded(digest)}"
