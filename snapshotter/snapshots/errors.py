"""Errors of snapshots, by the classes that containerd tells apart.

containerd's clients decide on these: ``AlreadyExists`` ends a retry well,
``NotFound`` lets a removal pass (containerd ``core/snapshots/storage``).
"""

from __future__ import annotations

from snapshotter.errors import ModelpackError


class SnapshotError(ModelpackError):
    """A snapshot cannot be made, changed or read; the reason lies with this machine."""


class NotFound(SnapshotError):
    """No snapshot has that key."""


class AlreadyExists(SnapshotError):
    """Another snapshot has that key."""


class InvalidArgument(SnapshotError):
    """The request can never succeed as it is."""


class FailedPrecondition(SnapshotError):
    """The snapshot's state forbids it."""


class Busy(SnapshotError):
    """Too much is under way: worth another try."""
