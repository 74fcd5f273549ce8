"""Giving back parts of a file: fallocate(2), for which Python has no call with a mode."""

from __future__ import annotations

import ctypes
import errno
import os

_KEEP_SIZE, _PUNCH_HOLE = 0x01, 0x02  # linux/falloc.h
_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate64 if hasattr(_libc, "fallocate64") else _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def punch(fd: int, start: int, end: int) -> None:
    """Make ``[start, end)`` of the file read as zeros and give its blocks back; the size stays.

    Raises OSError: EOPNOTSUPP where the file system has no holes.
    """
    while _fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, start, end - start) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
