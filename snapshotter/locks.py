"""One process, one directory: locks that the kernel drops with the process that has them."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from snapshotter.errors import ModelpackError


class DirectoryInUse(ModelpackError):
    """Another daemon has the directory."""


class Locked(Exception):
    """Another process has the lock: its pid, as it wrote it."""


def lock_file(path: Path) -> int:
    """An exclusive lock on the file ``path``, for as long as the returned descriptor is open.

    Made if it is not there. Raises :class:`Locked` at once, and :class:`OSError`.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise Locked(holder) from None
    except OSError:
        os.close(fd)
        raise
    return fd


def lock_directory(directory: Path) -> int:
    """`lock_file` of a daemon's own directory. :class:`DirectoryInUse` names who has it."""
    try:
        return lock_file(directory / "lock")
    except Locked as holder:
        raise DirectoryInUse(
            f"{directory} is in use by another modelpack-snapshotter (pid {holder}); "
            "stop it or give this one a root, state and addresses of its own"
        ) from None
    except OSError as error:
        raise DirectoryInUse(f"cannot lock {directory}: {error.strerror}") from None
