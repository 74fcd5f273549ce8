"""A tar of one file around bytes that stay where they are, POSIX.1-2001 ``pax``."""

from __future__ import annotations

import tarfile

_BLOCK = tarfile.BLOCKSIZE
_END = 2 * _BLOCK


def tar_header(path: str, size: int, mode: int) -> bytes:
    """Everything before the file's bytes; the same for the same arguments."""
    info = tarfile.TarInfo(path)
    info.size, info.mode, info.mtime = size, mode, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")


def tar_trailer(size: int) -> int:
    """How many zeros follow a file of ``size`` bytes: padding and the end of the archive."""
    return -size % _BLOCK + _END
