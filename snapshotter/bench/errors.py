"""Errors of measuring."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class BenchError(ModelpackError):
    """A measurement could not be made; the number is missing, never guessed."""


class Unavailable(BenchError):
    """Something a case needs is not on this machine; the message says how to get it."""
