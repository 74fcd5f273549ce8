"""Blobs that came wrong: what was expected, what came, from where. No byte of them is kept.

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

FIRST_PAUSE, LONGEST_PAUSE = 30.0, 3600.0
"""Seconds until a wrong blob is asked for again; doubled each time it comes wrong again."""


class WrongBlob(msgspec.Struct, frozen=True, kw_only=True):
    """The last time a blob came wrong."""

    digest: str
    size: int
    got: str
    """What the bytes hashed to, in hexadecimal."""
    sources: list[str]
    """Hosts that gave bytes of it in this life of the process."""
    at: float
    """Seconds since the epoch."""
    times: int
    """How often in a row."""

    @property
    def pause(self) -> float:
        """Seconds before it is asked for again."""
        return min(FIRST_PAUSE * 2.0 ** min(self.times - 1, 30), LONGEST_PAUSE)


class Quarantine:
    """The records below ``root``. Thread-safe. A record that cannot be written is logged."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._records: dict[str, WrongBlob] = {}
        self.condemned = 0
        """How many came wrong since the start."""
        for path in sorted(root.glob("*-*")) if root.is_dir() else ():
            try:
                record = msgspec.json.decode(path.read_bytes(), type=WrongBlob)
            except (OSError, msgspec.DecodeError):
                continue  # torn or another's: it is only a note
            self._records[record.digest] = record

    def records(self) -> list[WrongBlob]:
        with self._lock:
            return list(self._records.values())

    def condemn(self, digest: Digest, size: int, got: str, sources: Iterable[str]) -> WrongBlob:
        with self._lock:
            before = self._records.get(digest)
            record = self._records[digest] = WrongBlob(
                digest=digest,
                size=size,
                got=got,
                sources=sorted(sources),
                at=time.time(),
                times=before.times + 1 if before else 1,
            )
            self.condemned += 1
        log.error(
            "blob quarantined",
            digest=digest,
            got=got,
            sources=record.sources,
            times=record.times,
            asked_again_in=record.pause,
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
        log.info("blob that came wrong has come right", digest=digest)
        try:
            self._path(digest).unlink(missing_ok=True)
        except OSError as error:
            log.warning("quarantine record left", digest=digest, error=str(error))

    def _path(self, digest: Digest) -> Path:
        return self._root / f"{algorithm(digest)}-{encoded(digest)}"
