"""Content descriptors, OCI image-spec ``descriptor.md``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from snapshotter.artifact.digest import Digest


@dataclass(frozen=True, slots=True)
class Platform:
    """OCI image-spec ``image-index.md``; the names are Go's GOOS and GOARCH."""

    os: str
    architecture: str
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob by media type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str | None = None
    platform: Platform | None = None
