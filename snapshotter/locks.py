"""One daemon, one directory."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from snapshotter.errors import ModelpackError


class DirectoryInUse(ModelpackError):
    """Another daemon has the directory."""


def lock_directory(directory: Path) -> int:
    """An exclusive lock, for as long as the returned descriptor is open; the kernel drops it
    with the process. :class:`DirectoryInUse` names who has it."""
    try:
        fd = os.open(
            directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
    except OSError as error:
        raise DirectoryInUse(f"cannot lock {directory}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 20, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise DirectoryInUse(
            f"{directory} is in use by another modelpack-snapshotter (pid {holder}); "
            "stop it or give this one a root, state and addresses of its own"
        ) from None
    except OSError as error:
        os.close(fd)
        raise DirectoryInUse(f"cannot lock {directory}: {error.strerror}") from None
    return fd
