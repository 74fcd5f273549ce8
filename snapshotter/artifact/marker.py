"""The marker: the one file in the layer of a stub image, naming the model it stands for.

Clients that know nothing of models (ctr, nerdctl, docker, containerd before 2.1)
pull the stub as an ordinary image; the snapshotter finds the marker in the
unpacked layer and mounts the model in its place. Whoever unpacks the stub
elsewhere finds a file that says what it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.places import is_place

MARKER_NAME = ".modelpack-model.json"
MARKER_LIMIT = 4096
"""A marker is read only up to this many bytes; a larger file is no marker."""
_FORMAT = 1
_ABOUT = (
    "This directory stands for a model that was not mounted. "
    "The snapshotter 'modelpack' shows the model's files here; see docs/troubleshooting.md "
    "of modelpack-snapshotter."
)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model by place and content: where to fetch, and what exactly."""

    registry: str
    """Host and port as people write it in a reference, e.g. ``registry.example.com:5000``."""
    repository: str
    digest: Digest
    """Of the ModelPack manifest (never of an index)."""

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}@{self.digest}"


def encode_marker(ref: ModelRef) -> bytes:
    """Deterministic: the same model gives the same bytes, so the same stub image."""
    return (
        json.dumps(
            {
                "about": _ABOUT,
                "format": _FORMAT,
                "registry": ref.registry,
                "repository": ref.repository,
                "manifest": ref.digest,
            },
            indent=1,
        ).encode()
        + b"\n"
    )


def decode_marker(data: bytes) -> ModelRef:
    """Read a marker; :class:`ArtifactError` when it is none or of a later format.

    Any image may hold one, so nothing it says is believed unchecked.
    """
    try:
        fields = json.loads(data)
        if fields["format"] != _FORMAT:
            raise ArtifactError(
                f"stub image with marker format {fields['format']!r}: expected {_FORMAT}; "
                "upgrade modelpack-snapshotter"
            )
        registry, repository = fields["registry"], fields["repository"]
        digest = parse_digest(fields["manifest"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{MARKER_NAME} is no marker of a model: {error!r}") from None
    if not (isinstance(registry, str) and isinstance(repository, str)):
        raise ArtifactError(f"{MARKER_NAME} names no registry and repository")
    if not is_place(registry, repository):
        raise ArtifactError(
            f"{MARKER_NAME} names {registry[:160]!r} and {repository[:160]!r}: "
            "expected a registry and a repository"
        )
    return ModelRef(registry, repository, digest)
