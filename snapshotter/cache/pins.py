"""Which models are pinned: one small file, whole or not there."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import msgspec
import structlog

from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.cache import durable
from snapshotter.cache.errors import CacheError

log = structlog.get_logger(__name__)


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """A model whose bytes stay."""

    manifest: str
    """Digest of its manifest."""
    references: list[str]
    """What it was pinned as; a tag may point elsewhere by now."""
    since: float
    """Seconds since the epoch."""

    @property
    def digest(self) -> Digest:
        return Digest(self.manifest)


class NotPinned(CacheError):
    """There is no such pin."""


class Pins:
    """The pins in ``path``. Thread-safe; a change that returns is durable. All of it raises
    :class:`CacheError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._pins = {pin.digest: pin for pin in _read(path)}

    def all(self) -> list[Pin]:
        with self._lock:
            return list(self._pins.values())

    def add(self, manifest: Digest, reference: str) -> None:
        """Also under ``reference``, when it is pinned already."""
        with self._lock:
            before = self._pins.get(manifest)
            references = sorted({reference, *(before.references if before else ())})
            since = before.since if before else time.time()
            pin = Pin(manifest=manifest, references=references, since=since)
            self._change({**self._pins, manifest: pin})

    def remove(self, reference: str) -> list[Pin]:
        """Let go of what was pinned as ``reference``, a reference or a manifest's digest; those.

        Raises :class:`NotPinned`.
        """
        with self._lock:
            found = [
                pin for pin in self._pins.values() if reference in (pin.manifest, *pin.references)
            ]
            if not found:
                pinned = sorted(name for pin in self._pins.values() for name in pin.references)
                raise NotPinned(
                    f"{reference} is not pinned; pinned are: {', '.join(pinned) or 'no models'}"
                )
            gone = {pin.digest for pin in found}
            self._change({d: pin for d, pin in self._pins.items() if d not in gone})
            return found

    def _change(self, pins: dict[Digest, Pin]) -> None:
        body = msgspec.json.encode(list(pins.values()))
        try:
            durable.replace(self._path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
        except OSError as error:
            raise CacheError(
                f"pins not changed: cannot write {self._path}: {error.strerror}"
            ) from None
        self._pins = pins


def _read(path: Path) -> list[Pin]:
    """What ``path`` holds; one that is damaged is put aside."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CacheError(f"cannot read the pins in {path}: {error.strerror}") from None
    checksum, _, body = raw.partition(b"\n")
    try:
        if checksum != hashlib.sha256(body).hexdigest().encode():
            raise msgspec.DecodeError("its checksum is another")
        pins = msgspec.json.decode(body, type=list[Pin])
        for pin in pins:
            parse_digest(pin.manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, ArtifactError) as error:
        aside = path.with_name(path.name + ".damaged")
        log.error("pins damaged: pin again what was pinned", kept_as=str(aside), why=str(error))
        path.rename(aside)
        return []
    return pins
