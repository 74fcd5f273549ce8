"""What a file system has to answer.

Everything is by nodeid, the number the file system gave out for a file; the root is
:data:`~fuse.kernel.FUSE_ROOT_ID`. Nothing here knows how requests arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fuse.kernel import FOPEN_KEEP_CACHE
from fuse.reading import ReadRequest


@dataclass(frozen=True, slots=True)
class Attr:
    """What stat(2) shows of a file."""

    ino: int
    """``st_ino``. Need not be the nodeid: two nodeids of one path may share it."""
    mode: int
    """The whole ``st_mode``: type and permission bits."""
    size: int
    """Bytes."""
    mtime_ns: int = 0
    """Nanoseconds since 1970, not before; shown as access and change time too."""
    nlink: int = 1
    uid: int = 0
    gid: int = 0
    blksize: int = 4096
    """``st_blksize``, the size of read that programs such as cp(1) then choose."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory and the file it leads to."""

    name: bytes
    """1 to 255 bytes without ``/`` and NUL."""
    nodeid: int
    attr: Attr
    generation: int = 0
    """``nodeid`` and ``generation`` together must never mean two files in one mount's life."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The answer to open(2)."""

    fh: int = 0
    """Comes back in the file's reads and its release."""
    flags: int = FOPEN_KEEP_CACHE
    """``FOPEN_*``; FOPEN_NOFLUSH is always added, there being nothing to flush."""
    backing_id: int = 0
    """From :meth:`fuse.session.Session.open_backing`: the kernel then reads the backing file
    itself, and of ``flags`` only those allowed with FOPEN_PASSTHROUGH are sent. One I/O mode
    per nodeid: while the same nodeid is open without passthrough such an open fails with EIO."""


@dataclass(frozen=True, slots=True)
class Statfs:
    """The answer to statfs(2); nothing is ever free."""

    blocks: int = 0
    """In units of ``bsize``."""
    files: int = 0
    bsize: int = 4096
    namelen: int = 255


class Operations(Protocol):
    """A read-only, immutable file system.

    Methods are called from several threads at once, must not wait for anything slow, and
    raise :class:`OSError` with the errno the caller shall see. Any other exception is
    logged and answered EIO. None of them may send a notification (the kernel may hold the
    very directory the notification has to lock until the method has answered).
    """

    def lookup(self, parent: int, name: bytes) -> Entry:
        """The entry ``name`` of a directory. ENOENT is remembered by the kernel: a name
        that appears later needs :meth:`fuse.session.Session.notify_inval_entry`."""

    def forget(self, nodeid: int, count: int) -> None:
        """The kernel gives back ``count`` references. Each entry sent is one: by lookup, and
        by reading a directory, which the kernel often does with a lookup of every name."""

    def getattr(self, nodeid: int) -> Attr: ...

    def readlink(self, nodeid: int) -> bytes: ...

    def open(self, nodeid: int, flags: int) -> Opened:
        """``flags`` are open(2)'s; opening for writing has been refused before."""

    def read(self, request: ReadRequest) -> None:
        """Answer now or later, from any thread, with :meth:`ReadRequest.reply` or ``fail``."""

    def release(self, nodeid: int, fh: int) -> None:
        """The last descriptor of an :meth:`open` is closed."""

    def readdir(self, nodeid: int) -> Sequence[Entry]:
        """All entries without ``.`` and ``..``, in an order that never changes. Called for
        each part of a long listing, so it should cost nothing."""

    def statfs(self) -> Statfs: ...

    def getxattr(self, nodeid: int, name: bytes) -> bytes:
        """ENODATA: no such attribute. ENOSYS: never ask for one again."""

    def listxattr(self, nodeid: int) -> Sequence[bytes]:
        """Names with their prefix (``user.``). ENOSYS: never ask again."""

    def destroy(self) -> None:
        """Unmounted: called once, last. Not when a session was merely stopped."""
