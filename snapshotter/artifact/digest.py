"""Digests of content, OCI image-spec ``descriptor.md#digests``."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NewType

from snapshotter.artifact.errors import ArtifactError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Digest = NewType("Digest", str)
"""``algorithm:hex`` with a registered algorithm and its full length, e.g. ``sha256:…``."""

_FORM = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")


def parse_digest(text: str) -> Digest:
    """Check that ``text`` is a sha256 or sha512 digest; :class:`ArtifactError` otherwise."""
    if not _FORM.fullmatch(text):
        raise ArtifactError(f"{text[:160]!r} is no digest: expected sha256: and 64 hex digits")
    return Digest(text)


def algorithm(digest: Digest) -> str:
    return digest.partition(":")[0]


def encoded(digest: Digest) -> str:
    """The hexadecimal part; safe as a file name."""
    return digest.partition(":")[2]


def digest_of(data: ReadableBuffer, *, like: Digest | None = None) -> Digest:
    """The digest of ``data``, by the algorithm of ``like`` (default sha256)."""
    name = algorithm(like) if like is not None else "sha256"
    return Digest(f"{name}:{hashlib.new(name, data).hexdigest()}")
