"""Kubernetes image pull secrets as files: what a mounted or projected Secret looks like on disk.

Type ``kubernetes.io/dockerconfigjson`` is Docker's ``config.json`` under the name
``.dockerconfigjson``; the older ``kubernetes.io/dockercfg`` is its ``auths`` alone. Keys may be
patterns, see :mod:`snapshotter.registry.patterns`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapshotter.registry.credentials import Credential, Lookup, decode_entry
from snapshotter.registry.patterns import matches, without_scheme

_NAMES = (".dockerconfigjson", ".dockercfg", "config.json")
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class _Entry:
    pattern: str
    credential: Credential
    file: Path


class SecretFiles:
    """The secrets below some directories. Thread-safe.

    Files are looked at whenever credentials are looked for, and read again when they changed:
    a Secret that is rotated counts at once.
    """

    def __init__(self, places: Sequence[str]) -> None:
        """``places``: files, or directories with such files in them or one level below."""
        self._places = [Path(place) for place in places]
        self._lock = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int, int], list[_Entry]]] = {}

    def find(self, registry: str, repository: str) -> list[Lookup]:
        """All that match, the most exact key first, as kubelet tries them. Never raises."""
        with self._lock:
            entries = [entry for file in self._files() for entry in self._entries(file)]
        found = [entry for entry in entries if matches(entry.pattern, registry, repository)]
        found.sort(key=lambda entry: (-len(entry.pattern), "*" in entry.pattern))
        return [Lookup(e.credential, f"pull secret {e.pattern} in {e.file}") for e in found]

    def _files(self) -> Iterator[Path]:
        for place in self._places:
            if not place.is_dir():
                yield place
                continue
            try:
                inner = sorted(place.iterdir())
            except OSError:
                continue
            # `..data` and `..2024_…` of a projected volume hold the same files once more.
            directories = [place, *(p for p in inner if p.is_dir() and p.name[:2] != "..")]
            for directory in directories:
                try:
                    names = sorted(directory.iterdir())
                except OSError:
                    continue
                yield from (f for f in names if f.name in _NAMES or f.suffix == ".json")

    def _entries(self, file: Path) -> list[_Entry]:
        try:
            state = file.stat()
            stamp = (state.st_mtime_ns, state.st_ino, state.st_size)
            known = self._read.get(file)
            if known is None or known[0] != stamp:
                with file.open("rb") as stream:
                    known = stamp, _parse(json.loads(stream.read(_LIMIT)), file)
                self._read[file] = known
            return known[1]
        except (OSError, ValueError, RecursionError):
            return []  # told by `modelpack doctor`; the next file may have it


def _parse(document: Any, file: Path) -> list[_Entry]:
    if not isinstance(document, dict):
        return []
    auths = document.get("auths", document)
    if not isinstance(auths, dict):
        return []
    decoded = ((key, decode_entry(entry)) for key, entry in auths.items())
    return [
        _Entry(without_scheme(key), credential, file)
        for key, credential in decoded
        if credential is not None
    ]
