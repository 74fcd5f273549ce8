"""Errors of the daemon's side."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class KeeperError(ModelpackError):
    """The keeper cannot be reached, started or understood."""
