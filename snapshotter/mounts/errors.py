"""Errors of mounted models."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class MountError(ModelpackError):
    """A model could not be mounted or unmounted."""
