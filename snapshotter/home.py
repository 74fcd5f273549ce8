"""Where things of one user go: the XDG Base Directory Specification."""

from __future__ import annotations

import os
from pathlib import Path

from snapshotter.errors import ModelpackError


class NoHome(ModelpackError):
    """It is not known where this user's files belong."""


def user_directory(variable: str, fallback: str) -> Path:
    """``modelpack`` below ``$variable``, or below ``fallback`` in the user's home directory."""
    base = Path(os.environ.get(variable, ""))
    if base.is_absolute():  # the specification has relative ones ignored
        return base / "modelpack"
    try:
        return Path.home() / fallback / "modelpack"
    except RuntimeError:  # neither $HOME nor an entry in the password file
        raise NoHome(f"no home directory is known: set {variable} or HOME") from None
