"""Errors of images."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class ImageError(ModelpackError):
    """An image cannot be found, read or written in containerd, or is not what it should be."""


class ContainerdError(ImageError):
    """containerd did not answer, or refused."""
