"""Platforms as OCI writes them, in Go's names GOOS and GOARCH; other spellings are understood."""

from __future__ import annotations

import re

from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.errors import ArtifactError

_FORM = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)?")

# uname -m, and spellings found in indexes, to GOARCH and variant.
_ARCHITECTURES = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "loongarch64": ("loong64", ""),
}


def normalize(platform: Platform) -> Platform:
    """One spelling for each platform: lower case, GOARCH, default variants left out."""
    os, architecture = platform.os.lower(), platform.architecture.lower()
    variant = platform.variant.lower()
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if (architecture, variant) in (("arm64", "v8"), ("amd64", "v1")):
        variant = ""
    return Platform(os, architecture, variant)


def matches(offered: Platform, wanted: Platform) -> bool:
    """Whether what is offered serves who wants; a variant left out on either side fits all."""
    offered, wanted = normalize(offered), normalize(wanted)
    if (offered.os, offered.architecture) != (wanted.os, wanted.architecture):
        return False
    return not (offered.variant and wanted.variant) or offered.variant == wanted.variant


def describe(platform: Platform) -> str:
    """``linux/amd64``, ``linux/arm/v7``."""
    return "/".join(filter(None, (platform.os, platform.architecture, platform.variant)))


def parse_platform(text: str) -> Platform:
    """``linux/arm64``, ``linux/arm/v7``; :class:`ArtifactError` for anything else."""
    if not _FORM.fullmatch(text):
        raise ArtifactError(f"{text[:80]!r} is no platform: expected one such as linux/arm64")
    return normalize(Platform(*text.split("/")))
