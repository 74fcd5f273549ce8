"""Which FUSE file systems are mounted, from /proc/<pid>/mountinfo (proc(5))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_OCTAL = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FuseMount:
    """One line of mountinfo."""

    mount_id: int
    device: str
    """``major:minor`` as under /sys/class/bdi; the minor names /sys/fs/fuse/connections/."""
    root: str
    """What part of the file system is mounted: ``/``, or deeper for a bind mount."""
    mount_point: Path
    source: str
    """The ``fsname``."""
    fstype: str
    """``fuse.<subtype>``."""


def fuse_mounts(subtype: str | None = None, *, pid: int | str = "self") -> list[FuseMount]:
    """FUSE mounts in the mount namespace of ``pid``, oldest first, of one subtype or all.

    Asks the kernel only, never a file system, so dead servers do no harm.
    """
    text = Path(f"/proc/{pid}/mountinfo").read_bytes()
    mounts = parse_mountinfo(text)
    return [m for m in mounts if subtype is None or m.fstype == f"fuse.{subtype}"]


def parse_mountinfo(text: bytes) -> list[FuseMount]:
    """The lines of mountinfo that are FUSE mounts. Pure."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(b" - ")
        fields, kind = before.split(b" "), after.split(b" ")
        if not separator or len(fields) < 6 or len(kind) < 2:
            continue
        fstype = _decode(kind[0])
        if fstype == "fuse" or fstype.startswith("fuse."):
            mounts.append(
                FuseMount(
                    mount_id=int(fields[0]),
                    device=_decode(fields[2]),
                    root=_decode(fields[3]),
                    mount_point=Path(_decode(fields[4])),
                    source=_decode(kind[1]),
                    fstype=fstype,
                )
            )
    return mounts


def _decode(field: bytes) -> str:
    """Blank, tab, newline and backslash come as three octal digits."""
    return os.fsdecode(_OCTAL.sub(lambda match: bytes([int(match[1], 8)]), field))
