"""Answers as the bytes the kernel expects. Pure."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from fuse.kernel import ATTR, ATTR_OUT, DIRENT, ENTRY_OUT, STATFS_OUT
from fuse.operations import Attr, Entry, Statfs

FOR_EVER = 10 * 365 * 86400
"""Seconds names and attributes stay valid: nothing changes unless we notify the kernel."""

UNKNOWN_INO = 0xFFFFFFFF
"""d_ino of ``..``, whose number a directory does not know; libfuse's FUSE_UNKNOWN_INO.
Programs take 0 for a deleted entry."""

_BLOCK = 512  # unit of st_blocks
_SECOND = 10**9


def encode_attr(attr: Attr) -> bytes:
    """``struct fuse_attr``."""
    seconds, nanoseconds = divmod(attr.mtime_ns, _SECOND)
    return ATTR.pack(
        attr.ino,
        attr.size,
        -(-attr.size // _BLOCK),
        seconds,
        seconds,
        seconds,
        nanoseconds,
        nanoseconds,
        nanoseconds,
        attr.mode,
        attr.nlink,
        attr.uid,
        attr.gid,
        0,
        attr.blksize,
        0,
    )


def encode_attr_out(attr: Attr) -> bytes:
    """``struct fuse_attr_out``."""
    return ATTR_OUT.pack(FOR_EVER, 0, 0) + encode_attr(attr)


def encode_entry(entry: Entry) -> bytes:
    """``struct fuse_entry_out``."""
    return ENTRY_OUT.pack(entry.nodeid, entry.generation, FOR_EVER, FOR_EVER, 0, 0) + encode_attr(
        entry.attr
    )


NO_ENTRY = ENTRY_OUT.pack(0, 0, FOR_EVER, 0, 0, 0) + bytes(ATTR.size)
"""Nodeid 0: there is no such name, and the kernel may remember that."""


def encode_statfs(statfs: Statfs) -> bytes:
    """``struct fuse_statfs_out``: full, as a file system nobody can write to is."""
    return STATFS_OUT.pack(
        statfs.blocks, 0, 0, statfs.files, 0, statfs.bsize, statfs.namelen, statfs.bsize, 0
    )


def encode_directory(
    ino: int, entries: Sequence[Entry], cookie: int, size: int, *, plus: bool
) -> bytes:
    """As much of a directory as fits into ``size`` bytes, from ``cookie`` on.

    A cookie is a position: 0 is ``.``, 1 is ``..``, 2 the first of ``entries``; each
    record carries the cookie of the next one. Empty at the end.

    ``plus`` adds ``struct fuse_entry_out`` to every record (READDIRPLUS), for ``.`` and
    ``..`` with nodeid 0, which the kernel does not count as a lookup.
    """
    out = bytearray()
    for position in range(cookie, len(entries) + 2):
        if position < 2:
            name = b"." if position == 0 else b".."
            head = bytes(len(NO_ENTRY)) if plus else b""
            number, kind = (ino if position == 0 else UNKNOWN_INO), stat.S_IFDIR
        else:
            entry = entries[position - 2]
            name = entry.name
            head = encode_entry(entry) if plus else b""
            number, kind = entry.attr.ino, entry.attr.mode
        record = head + encode_dirent(number, position + 1, name, kind)
        if len(out) + len(record) > size:
            break
        out += record
    return bytes(out)


def encode_dirent(ino: int, next_cookie: int, name: bytes, mode: int) -> bytes:
    """``struct fuse_dirent`` with its name, padded to 8 bytes (FUSE_DIRENT_ALIGN)."""
    padding = -(DIRENT.size + len(name)) % 8
    # DT_* are the file type bits of st_mode, shifted down.
    kind = stat.S_IFMT(mode) >> 12
    return DIRENT.pack(ino, next_cookie, len(name), kind) + name + bytes(padding)
