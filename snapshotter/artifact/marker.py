"""The marker: the one file in the layer of a stub image, naming the model it stands for.

Format 1 has registry, repository and manifest. Format 2 has ``choose`` too, what of the model is
to be shown (see :mod:`.choice`): an earlier version must refuse it rather than show everything.

Clients that know nothing of models (ctr, nerdctl, docker, containerd before 2.1)
pull the stub as an ordinary image; the snapshotter finds the marker in the
unpacked layer and mounts the model in its place. Whoever unpacks the stub
elsewhere finds a file that says what it is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from snapshotter.artifact.choice import ASKED_LIMIT, EVERYTHING, read_choice, write_choice
from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.places import is_place
from snapshotter.artifact.selection import Selection

MARKER_NAME = ".modelpack-model.json"
MARKER_LIMIT = 4096
"""A marker is read only up to this many bytes; a larger file is no marker."""
_FORMAT = 1
_FORMAT_CHOICE = 2
_FIELDS = {"about", "format", "registry", "repository", "manifest"}
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
    selection: Selection = EVERYTHING
    """Which of its files are asked for; a node may leave out more."""

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}@{self.digest}"


def encode_marker(ref: ModelRef) -> bytes:
    """Deterministic: the same model and choice give the same bytes, so the same stub image.

    Raises :class:`ArtifactError` when the choice is too long for a marker.
    """
    choice = {"choose": write_choice(ref.selection, ASKED_LIMIT)} if ref.selection else {}
    data = (
        json.dumps(
            {
                "about": _ABOUT,
                "format": _FORMAT_CHOICE if choice else _FORMAT,
                "registry": ref.registry,
                "repository": ref.repository,
                "manifest": ref.digest,
            }
            | choice,
            indent=1,
        ).encode()
        + b"\n"
    )
    if len(data) > MARKER_LIMIT:
        raise ArtifactError(
            f"{ref}: the patterns to choose files by are too many for a stub image, which has "
            f"{MARKER_LIMIT} bytes for them: use shorter ones, or [mounts] exclude of the node"
        )
    return data


def decode_marker(data: bytes) -> ModelRef:
    """Read a marker; :class:`ArtifactError` when it is none or of a later format.

    Any image may hold one, so nothing it says is believed unchecked.
    """
    try:
        fields = json.loads(data)
        choice = _check_format(fields)
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
    return ModelRef(registry, repository, digest, choice)


def _check_format(fields: dict[str, Any]) -> Selection:
    """What the marker chooses. What it says and we do not know may say what must not be shown."""
    found = fields["format"]
    if found not in (_FORMAT, _FORMAT_CHOICE):
        raise ArtifactError(
            f"stub image with marker format {found!r}: expected {_FORMAT} or {_FORMAT_CHOICE}; "
            "upgrade modelpack-snapshotter"
        )
    known = _FIELDS | ({"choose"} if found == _FORMAT_CHOICE else set())
    unknown = sorted(fields.keys() - known)
    if unknown:
        raise ArtifactError(
            f"{MARKER_NAME} has unknown fields {', '.join(name[:40] for name in unknown[:5])}: "
            "upgrade modelpack-snapshotter, or pull the model again"
        )
    if found == _FORMAT:
        return EVERYTHING
    return read_choice(fields["choose"], ASKED_LIMIT)
