"""Which files an unfinished copy has put in place, so that none is fetched or hashed again."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class _Placed(msgspec.Struct, frozen=True, array_like=True):
    path: str
    digest: str
    offset: int
    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int
    """Which nobody can set: a file that was touched since is not believed to be the same."""


class Journal:
    """A line for each file in a directory of ours, appended once the file is in place.

    Not made durable: after a power cut what it lacks is hashed or fetched again, and a line
    that is torn counts for nothing.
    """

    def __init__(self, work: Path) -> None:
        self._path = work / "placed"
        self._known: dict[str, _Placed] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            lines = []
        for line in lines:
            try:
                placed = msgspec.json.decode(line, type=_Placed)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            self._known[placed.path] = placed

    def has(self, path: str, digest: str, offset: int, found: os.stat_result) -> bool:
        """Whether ``found`` at ``path`` is what was put there, of this blob at this offset."""
        return self._known.get(path) == _placed(path, digest, offset, found)

    def add(self, path: str, digest: str, offset: int, found: os.stat_result) -> None:
        """One write for each line, so that threads and a SIGKILL leave whole ones."""
        line = msgspec.json.encode(_placed(path, digest, offset, found)) + b"\n"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o600)
        try:
            os.write(fd, line)
        finally:
            os.close(fd)


def _placed(path: str, digest: str, offset: int, found: os.stat_result) -> _Placed:
    return _Placed(
        path, digest, offset, found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns
    )
