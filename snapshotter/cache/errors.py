"""Errors of the cache."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class CacheError(ModelpackError):
    """The cache on the disk cannot be used, or cannot take or give these bytes."""


class CacheInUse(CacheError):
    """Another process has the cache."""


class CacheFull(CacheError):
    """There is no room for more bytes: they are served without being kept."""


class Unreadable(CacheError):
    """The disk does not give what it was given."""


class DigestMismatch(CacheError):
    """A complete blob does not hash to its digest; what was there of it is gone."""
