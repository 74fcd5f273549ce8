"""Who wants which blobs kept: models that are mounted, were mounted lately, or are pinned.

One small file, ``<root>/claims``, whole or not there. To this room a model is a name, a
title for people and a list of blobs.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

import msgspec
import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.cache import durable
from snapshotter.cache.errors import CacheError

log = structlog.get_logger(__name__)


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A model's claim on its blobs."""

    name: str
    """Digest of its manifest."""
    title: str
    """Its reference, as it was asked for."""
    blobs: list[str]
    pinned: bool = False
    pinned_as: list[str] = []
    """References it was pinned under; a tag may point elsewhere by now."""
    mounted: bool = False
    """So it was when this was written."""
    released: float
    """When it was last known to be wanted, seconds since the epoch."""


class Claims:
    """The claims in ``path``. Thread-safe. Nothing is mounted yet when it is made.

    Pins are durable at once, everything else with the next :meth:`save`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._claims: dict[str, Claim] = {claim.name: claim for claim in _read(path)}
        self._mounted: Counter[str] = Counter()
        self._changed = False

    def all(self) -> list[Claim]:
        with self._lock:
            return list(self._claims.values())

    def mounted(self, name: str) -> bool:
        with self._lock:
            return self._mounted[name] > 0

    def pinned_blobs(self) -> set[str]:
        return {digest for claim in self.all() if claim.pinned for digest in claim.blobs}

    def take(self, name: str, title: str, blobs: Iterable[Digest]) -> None:
        """A model was mounted; :meth:`release` it once for each time."""
        with self._lock:
            self._mounted[name] += 1
            claim = _claim(self._claims.get(name), name, title, blobs)
            self._claims[name] = msgspec.structs.replace(claim, mounted=True)
            self._changed = True

    def release(self, name: str) -> None:
        """A mount of the model ended; from the last one on its blobs are kept for a time only."""
        with self._lock:
            self._mounted[name] -= 1
            if self._mounted[name] <= 0:
                del self._mounted[name]
                self._wanted([name], mounted=False)

    def wanted(self, names: Iterable[str]) -> None:
        """Somebody still knows these models: their time begins anew."""
        with self._lock:
            self._wanted(names)

    def lapsed(self, before: float) -> list[Claim]:
        """Claims of models neither mounted nor pinned nor wanted since ``before``."""
        with self._lock:
            return [
                claim
                for claim in self._claims.values()
                if not claim.pinned and not self._mounted[claim.name] and claim.released < before
            ]

    def forget(self, names: Collection[str]) -> None:
        with self._lock:
            for name in names:
                if not self._mounted[name]:
                    self._claims.pop(name, None)
            self._changed = True

    def save(self) -> None:
        """Make durable what changed. What cannot be is logged and tried again."""
        with self._lock:
            if self._changed:
                try:
                    self._write()
                except OSError as error:
                    log.warning("claims not written", error=_cannot(self._path, error))

    def pin(self, name: str, reference: str, blobs: Iterable[Digest]) -> None:
        """Keep the model's blobs until :meth:`unpin`. Raises :class:`CacheError`."""
        with self._lock:
            before = self._claims.get(name)
            claim = _claim(before, name, reference, blobs)
            under = sorted({*claim.pinned_as, reference})
            self._claims[name] = msgspec.structs.replace(claim, pinned=True, pinned_as=under)
            try:
                self._write()
            except OSError as error:
                if before is None:
                    del self._claims[name]
                else:
                    self._claims[name] = before
                raise CacheError(f"{reference} not pinned: {_cannot(self._path, error)}") from None

    def unpin(self, reference: str) -> list[Claim]:
        """Let go of what was pinned under ``reference``, a reference or a manifest's digest.

        Raises :class:`CacheError` when nothing was, or when it cannot be written.
        """
        with self._lock:
            found = [
                claim
                for claim in self._claims.values()
                if claim.pinned and reference in (claim.name, *claim.pinned_as)
            ]
            if not found:
                pinned = ", ".join(
                    sorted(title for claim in self._claims.values() for title in claim.pinned_as)
                )
                raise CacheError(
                    f"{reference} is not pinned; pinned are: {pinned or 'no models at all'}"
                )
            for claim in found:
                self._claims[claim.name] = msgspec.structs.replace(
                    claim, pinned=False, pinned_as=[], released=time.time()
                )
            try:
                self._write()
            except OSError as error:
                self._claims.update((claim.name, claim) for claim in found)
                raise CacheError(
                    f"{reference} still pinned: {_cannot(self._path, error)}"
                ) from None
            return found

    def _wanted(self, names: Iterable[str], **changes: bool) -> None:
        now = time.time()
        for name in names:
            if name in self._claims:
                claim = self._claims[name]
                self._claims[name] = msgspec.structs.replace(claim, released=now, **changes)
                self._changed = True

    def _write(self) -> None:
        body = msgspec.json.encode(list(self._claims.values()))
        durable.replace(self._path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        self._changed = False


def _claim(before: Claim | None, name: str, title: str, blobs: Iterable[Digest]) -> Claim:
    unique: list[str] = list(dict.fromkeys(blobs))
    if before is None:
        return Claim(name=name, title=title, blobs=unique, released=time.time())
    return msgspec.structs.replace(before, title=title, blobs=unique, released=time.time())


def _read(path: Path) -> list[Claim]:
    """What ``path`` holds; one that is damaged is put aside, for it named the pinned models."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(f"cannot read {path} of the cache: {error.strerror}") from None
    checksum, _, body = raw.partition(b"\n")
    try:
        if checksum != hashlib.sha256(body).hexdigest().encode():
            raise msgspec.DecodeError("its checksum is another")
        claims = msgspec.json.decode(body, type=list[Claim])
    except msgspec.DecodeError as error:
        aside = path.with_name(path.name + ".damaged")
        log.error("claims damaged: pin again what was pinned", kept_as=str(aside), why=str(error))
        path.rename(aside)
        return []
    # Whoever had some of them mounted is gone, nobody knows since when.
    now = time.time()
    return [
        msgspec.structs.replace(claim, mounted=False, released=now) if claim.mounted else claim
        for claim in claims
    ]


def _cannot(path: Path, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror}"
