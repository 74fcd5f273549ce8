"""Errors of mounting."""

from __future__ import annotations


class MountError(OSError):
    """Mounting or unmounting failed. ``strerror`` is one line for a person: what, and what
    to do about it; ``errno`` is for programs."""

    def __str__(self) -> str:
        return str(self.strerror)
