"""Errors of fetching."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class FetchError(ModelpackError):
    """The bytes asked for did not come. The next read of them tries again."""
