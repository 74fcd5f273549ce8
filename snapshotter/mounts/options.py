"""What an administrator sets of mounted models."""

from __future__ import annotations

import msgspec

from snapshotter.units import ByteSize


class MountOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[mounts]``: how models appear in containers."""

    uid: int = 0
    """Owner of every file, whatever the artifact says."""
    gid: int = 0
    """Group of every file, whatever the artifact says."""
    readahead: ByteSize = ByteSize(4 << 20)
    """What the kernel reads ahead of a sequential reader (``read_ahead_kb`` of the mount)."""
    max_read: ByteSize = ByteSize(1 << 20)
    """The largest read the kernel asks for; over 1 MiB needs ``fs.fuse.max_pages_limit`` raised."""
    passthrough: bool = True
    """Let the kernel read complete, verified files from the cache by itself, at native speed
    (Linux 6.9 and newer; the cache must not lie on overlayfs)."""
    threads: int = 2
    """Threads that answer the kernel, for each mounted model."""
