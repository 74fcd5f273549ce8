"""The node that is measured: what it is, and its page cache."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_DROP = Path("/proc/sys/vm/drop_caches")


def describe(directory: Path) -> dict[str, Any]:
    """What numbers depend on; ``directory`` is where models and caches are."""
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "memory_bytes": int(memory[1]) * 1024 if memory else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": file_system(directory),
        "load_average": os.getloadavg()[0],
    }


def summary(machine: dict[str, Any]) -> str:
    """One line for people."""
    return (
        f"{machine['cpus']} CPUs ({machine['cpu']}), "
        f"{machine['memory_bytes'] / (1 << 30):.0f} GiB of memory, Linux {machine['kernel']}, "
        f"Python {machine['python']}, {machine['file_system']}, "
        f"load {machine['load_average']:.1f} at the start"
    )


def file_system(directory: Path) -> str:
    """Type of the file system that ``directory`` is on, such as ``ext4``; from mountinfo."""
    best, found = Path("/"), "unknown file system"
    wanted = directory.resolve()
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4])
        if wanted.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, found = point, after.split()[0]
    return found


def mounted_below(directory: Path) -> list[Path]:
    """Mount points at and below ``directory``, the youngest first; from mountinfo.

    os.path.ismount() would not see a bind mount within one file system.
    """
    text = Path("/proc/self/mountinfo").read_text()
    points = [Path(line.split()[4]) for line in text.splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(directory)]


def can_drop_caches() -> bool:
    """Whether the whole page cache can be emptied: as root, where /proc/sys is writable."""
    return os.access(_DROP, os.W_OK)


def drop_caches(files: Iterable[Path] = ()) -> None:
    """Forget pages, dentries and inodes; without root only the pages of ``files``."""
    if can_drop_caches():
        os.sync()
        try:
            _DROP.write_text("3\n")
            return
        except OSError:
            pass  # writable by mode only, in a container for instance: then as without root
    for path in files:
        fd = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def about_caches() -> str:
    """For the reports."""
    if can_drop_caches():
        return (
            "page cache dropped (/proc/sys/vm/drop_caches) before every run that says so; "
            "cold runs begin with an empty cache directory, the registry's files in memory"
        )
    return (
        "page cache NOT dropped, that needs root: posix_fadvise(DONTNEED) on the files instead; "
        "cold runs begin with an empty cache directory, the registry's files in memory"
    )


def _cpu() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()
