"""Errors of building and pushing."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class BuildError(ModelpackError):
    """The directory cannot become a model artifact as it is."""


class SourceChanged(BuildError):
    """A file is not what it was when the artifact was built."""


class NoBuild(ModelpackError):
    """Nothing was built under the reference, or its record cannot be used."""
