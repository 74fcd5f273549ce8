"""INIT: what kernel and file system agree on for the life of a mount. Pure.

The answer depends on the kernel's offer and on the options alone. A process that takes
over a mount cannot ask again: it gets the predecessor's :class:`InitReply`, kept with
the file descriptor (:meth:`InitReply.encode`, :meth:`InitReply.decode`).
"""

from __future__ import annotations

import errno
import mmap
from dataclasses import dataclass
from typing import Self

from fuse.kernel import (
    FUSE_COMPAT_22_INIT_OUT_SIZE,
    FUSE_KERNEL_MINOR_VERSION,
    FUSE_KERNEL_VERSION,
    INIT_IN,
    INIT_IN_EXT,
    INIT_OUT,
    InitFlag,
)

MINIMUM_MINOR = 12
"""Linux 2.6.31: notifications, and structs laid out as they still are."""

_WANTED = (
    InitFlag.ASYNC_READ
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.MAX_PAGES
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.EXPLICIT_INVAL_DATA
    | InitFlag.INIT_EXT
    | InitFlag.HAS_RESEND
    | InitFlag.HAS_EXPIRE_ONLY
)
"""What suits files that never change. Not WRITEBACK_CACHE (excludes passthrough), not
AUTO_INVAL_DATA (drops pages when attributes differ)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a file system wants to be served."""

    threads: int = 2
    """Threads that read the device, 1 or more."""
    name: str = "fuse"
    """Beginning of the threads' names."""
    max_read: int = 1 << 20
    """Largest READ in bytes; the kernel cuts it at fs.fuse.max_pages_limit pages and at the
    mount's max_read."""
    max_readahead: int = 16 << 20
    """Bytes. The kernel takes the smaller of this and its own, so what really counts is
    :func:`fuse.mount.set_readahead`."""
    max_background: int = 64
    """Readahead requests in flight; the kernel's default of 12 starves a parallel fetch."""
    passthrough: bool = True
    """Let the kernel read backing files itself where it can (Linux 6.9, CAP_SYS_ADMIN). The
    mount then counts as one more level of stacking, of which the kernel allows two."""
    allow_idmap: bool = True
    """Let the mount be id-mapped (Linux 6.12). The kernel refuses the mount unless it has
    the option default_permissions, which :func:`fuse.mount.mount` sets."""


@dataclass(frozen=True, slots=True)
class InitRequest:
    """The kernel's offer."""

    major: int
    minor: int
    max_readahead: int
    flags: InitFlag

    @classmethod
    def decode(cls, body: memoryview | bytes) -> Self:
        """``struct fuse_init_in``; :class:`struct.error` when it is cut short."""
        major, minor, max_readahead, flags = INIT_IN.unpack_from(body)
        if flags & InitFlag.INIT_EXT:
            flags |= INIT_IN_EXT.unpack_from(body, INIT_IN.size)[0] << 32
        return cls(major, minor, max_readahead, InitFlag(flags))


@dataclass(frozen=True, slots=True)
class InitReply:
    """What was agreed."""

    minor: int
    flags: InitFlag
    max_readahead: int
    max_background: int
    congestion_threshold: int
    max_write: int
    max_pages: int
    max_stack_depth: int

    def encode(self) -> bytes:
        """``struct fuse_init_out``, as long as this minor version expects it."""
        flags = int(self.flags)
        whole = INIT_OUT.pack(
            FUSE_KERNEL_VERSION,
            self.minor,
            self.max_readahead,
            flags & 0xFFFFFFFF,
            self.max_background,
            self.congestion_threshold,
            self.max_write,
            1,  # time_gran: nanoseconds
            self.max_pages,
            0,
            flags >> 32,
            self.max_stack_depth,
            0,
        )
        return whole if self.minor >= 23 else whole[:FUSE_COMPAT_22_INIT_OUT_SIZE]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of :meth:`encode`; ValueError when it is none of ours."""
        if len(data) not in (INIT_OUT.size, FUSE_COMPAT_22_INIT_OUT_SIZE):
            raise ValueError(f"an INIT answer has {INIT_OUT.size} bytes, not {len(data)}")
        fields = INIT_OUT.unpack(data.ljust(INIT_OUT.size, b"\0"))
        major, minor, readahead, flags, background, congestion, write = fields[:7]
        _time_gran, pages, _map_alignment, flags2, stack_depth, _timeout = fields[7:]
        if major != FUSE_KERNEL_VERSION:
            raise ValueError(f"INIT answer of FUSE {major}.{minor}, expected 7.x")
        return cls(
            minor,
            InitFlag(flags | flags2 << 32),
            readahead,
            background,
            congestion,
            write,
            pages,
            stack_depth,
        )


def negotiate(request: InitRequest, options: SessionOptions) -> InitReply:
    """Answer the kernel's offer; EPROTO for a kernel that is too old.

    A kernel with a larger major version is to be answered with ours, and asks again.
    """
    if request.major < FUSE_KERNEL_VERSION or (
        request.major == FUSE_KERNEL_VERSION and request.minor < MINIMUM_MINOR
    ):
        raise OSError(
            errno.EPROTO,
            f"the kernel speaks FUSE {request.major}.{request.minor}, "
            f"needed is {FUSE_KERNEL_VERSION}.{MINIMUM_MINOR} or later",
        )
    wanted = _WANTED
    if options.passthrough:
        wanted |= InitFlag.PASSTHROUGH
    if options.allow_idmap:
        wanted |= InitFlag.ALLOW_IDMAP
    flags = request.flags & wanted
    return InitReply(
        minor=min(request.minor, FUSE_KERNEL_MINOR_VERSION),
        flags=flags,
        max_readahead=options.max_readahead,
        max_background=options.max_background,
        congestion_threshold=options.max_background * 3 // 4,
        # The least the kernel allows; it sets how large a read buffer has to be.
        max_write=4096,
        max_pages=options.max_read // mmap.PAGESIZE if InitFlag.MAX_PAGES in flags else 0,
        max_stack_depth=1 if InitFlag.PASSTHROUGH in flags else 0,
    )
