"""Errors of copying and reading models."""

from __future__ import annotations

from snapshotter.errors import ModelpackError
from snapshotter.registry.errors import NotFound


class CopyError(ModelpackError):
    """A file of a model could not be read, or not be put where it should go."""


class WrongBytes(CopyError):
    """What came is not what its digest says."""


class NotHere(NotFound):
    """This machine has no such model, or not all of it."""
