"""Settings of verification: the ``[verify]`` table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.artifact.errors import ArtifactError


class VerifyOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[verify]``: when bytes may be served."""

    mode: Literal["background", "strict"] = "background"
    """``background`` serves bytes as they arrive and hashes each blob once it is complete;
    ``strict`` serves no byte of a blob before all of it was hashed, which makes the first read
    wait for the whole blob, unless its chunks are verified by a trusted chunk list."""

    pinned_lists: tuple[str, ...] = ()
    """Chunk lists that are trusted, as ``MANIFEST=LIST``: the digest of a model's manifest and
    that of its list, as ``modelpack index`` prints them. Such a model is served with this list or
    not at all."""

    def __post_init__(self) -> None:
        self.pins  # noqa: B018  # says what is wrong with it

    @property
    def pins(self) -> Mapping[Digest, Digest]:
        """From the digest of a manifest to that of its list."""
        return dict(_pin(text) for text in self.pinned_lists)


def _pin(text: str) -> tuple[Digest, Digest]:
    manifest, _, chunk_list = text.partition("=")
    try:
        return parse_digest(manifest), parse_digest(chunk_list)
    except ArtifactError:
        raise ValueError(
            f"pinned_lists: {text[:300]!r} is no MANIFEST=LIST, such as sha256:...=sha256:..."
        ) from None
