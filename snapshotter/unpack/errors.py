"""Errors of unpacking."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class UnpackError(ModelpackError):
    """A compressed layer could not be unpacked, or not in time."""


class WrongLayer(UnpackError):
    """What came of a compressed layer is not what its digest says."""
