"""Errors of artifacts."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class ArtifactError(ModelpackError):
    """The artifact cannot be used: malformed, hostile, or in a form we do not serve."""


class NotAModel(ArtifactError):
    """A well-formed OCI artifact that is no model."""


class PatternError(ModelpackError):
    """A pattern that files are to be chosen by makes no sense."""
