"""Opening a file by a path that was resolved before, and no other file that took its place."""

from __future__ import annotations

import errno
import os
import stat
from io import FileIO
from pathlib import Path

_WAY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_resolved(path: Path) -> FileIO:
    """The regular file at ``path``, an absolute path without links; unbuffered.

    Follows no link that is on the way by now, and does not wait at a pipe: OSError, with
    ELOOP or ENOTDIR, or EINVAL for what is no regular file.
    """
    directory = os.open("/", _WAY)
    try:
        for name in path.parts[1:-1]:
            inner = os.open(name, _WAY, dir_fd=directory)
            os.close(directory)
            directory = inner
        opened = os.open(path.name, _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return FileIO(opened, "rb")
