"""Errors of the cache."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class CacheError(ModelpackError):
    """The cache on the disk cannot be used, or cannot take or give these bytes."""


class CacheInUse(CacheError):
    """Another process has the cache."""


class CacheFull(CacheError):
    """The cache holds as much as it may, or the disk as much as it can."""


class DigestMismatch(CacheError):
    """A complete blob does not hash to its digest; what was there of it is gone."""
