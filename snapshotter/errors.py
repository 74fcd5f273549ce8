"""The root of every room's errors."""

from __future__ import annotations


class ModelpackError(Exception):
    """Something a person can act on.

    The message is one line: which artifact, file or host it is about, what was
    expected, what came, and what to do. It never holds a secret. Commands print
    it and exit with status 1; the daemon's services put it into their replies.
    """
