"""The one error of this room."""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class TensorsError(ModelpackError):
    """The file is not what its name says, or says of itself what cannot be."""
