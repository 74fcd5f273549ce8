"""The disk of the blob cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.finding import Change, Finding, error, ok, run, warning
from snapshotter.doctor.samples import DAEMON_CONFIG
from snapshotter.units import format_size

PART = "cache"
_LITTLE = 10 << 30
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "fuse.sshfs", "fuse.s3fs")


@dataclass(frozen=True, slots=True)
class DiskFacts:
    path: Path
    """Where the cache is, or will be."""
    fstype: str
    """Of the mount it lies on; empty: not known."""
    read_only: bool
    free: int
    """Bytes for root."""


def gather(cache: Path) -> DiskFacts:
    existing = next(path for path in (cache, *cache.parents) if path.is_dir()).resolve()
    status = os.statvfs(existing)
    mountinfo = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    return DiskFacts(
        cache,
        fstype_of(mountinfo, existing),
        bool(status.f_flag & os.ST_RDONLY),
        status.f_bfree * status.f_frsize,
    )


def judge(facts: DiskFacts) -> list[Finding]:
    elsewhere = Change(DAEMON_CONFIG, 'root = "/DISK/modelpack-snapshotter"\n')
    found = []
    if facts.read_only:
        found.append(
            error(
                PART,
                "cache-writable",
                f"{facts.path} lies on a read-only file system",
                "nothing that is fetched can be kept",
                elsewhere,
            )
        )
    if facts.fstype == "overlay":
        found.append(
            warning(
                PART,
                "cache-disk",
                f"{facts.path} lies on overlayfs",
                "the kernel cannot read files on it by itself (passthrough): slower",
                elsewhere,
                run("# in a container: give it a volume of the host's disk"),
            )
        )
    elif facts.fstype in ("tmpfs", "ramfs"):
        found.append(
            warning(
                PART,
                "cache-disk",
                f"{facts.path} lies in memory ({facts.fstype})",
                "models take memory from their readers, and are gone after a reboot",
                elsewhere,
            )
        )
    elif facts.fstype in _NETWORK:
        found.append(
            warning(
                PART,
                "cache-disk",
                f"{facts.path} lies on a network file system ({facts.fstype})",
                "every byte crosses the network twice; locks and sparse files may not work",
                elsewhere,
            )
        )
    if facts.free < _LITTLE:
        found.append(
            warning(
                PART,
                "cache-space",
                f"{format_size(facts.free)} are free for {facts.path}",
                "models that are larger cannot be completed",
                elsewhere,
            )
        )
    return found or [
        ok(
            PART,
            "cache-disk",
            f"{facts.path} lies on {facts.fstype or 'a disk'}, {format_size(facts.free)} free",
        )
    ]


def fstype_of(mountinfo: str, path: Path) -> str:
    """The type of the file system ``path`` lies on, from proc_pid_mountinfo(5). Pure."""
    found, length = "", -1
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = unescape(fields[4])
        # Of mounts on one point the last one hides the others.
        if path.is_relative_to(point) and len(point) >= length:
            found, length = after.split(" ")[0], len(point)
    return found


def unescape(field: str) -> str:
    """Blank, tab, newline and backslash come as three octal digits."""
    for character in " \t\n\\":
        field = field.replace(f"\\{ord(character):03o}", character)
    return field
