"""What the daemon needs of the machine, checked before anything is made."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

from snapshotter.config import Config
from snapshotter.errors import ModelpackError

FUSE_DEVICE = Path("/dev/fuse")
_FUSE_TIMEOUTS = ("default_request_timeout", "max_request_timeout")


class EnvironmentLacks(ModelpackError):
    """Something the daemon needs is not there."""


def check_environment(config: Config) -> None:
    """Raises :class:`EnvironmentLacks` naming the first thing missing and what to do.

    Makes nothing.
    """
    if os.geteuid() != 0:
        raise EnvironmentLacks(
            "the daemon must run as root: it mounts file systems for containerd "
            "(modelpack mount works without root)"
        )
    if not FUSE_DEVICE.exists():
        raise EnvironmentLacks(f"{FUSE_DEVICE} is missing: run 'modprobe fuse'")
    for key, directory in (("root", config.root), ("state", config.state)):
        _check_directory(key, Path(directory))


def raise_file_limit() -> None:
    """Each blob that is read holds a descriptor, and a model has up to thousands of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def collect_rarely() -> None:
    """Have Python look for cycles less often than it does by itself.

    A model of thousands of files is a hundred thousand objects that stay: to look through them
    every 700 new ones takes as long as to make them.
    """
    gc.set_threshold(50_000, 20, 20)


def concerns() -> list[str]:
    """What works now but will hurt later; one line each, for the log at start."""
    found = []
    for name in _FUSE_TIMEOUTS:
        sysctl = Path("/proc/sys/fs/fuse") / name
        if sysctl.exists() and (seconds := int(sysctl.read_text())) > 0:
            found.append(
                f"fs.fuse.{name} is {seconds} s: the kernel aborts a whole mount when one read "
                "waits longer for a registry; set it to 0"
            )
    return found


def _check_directory(key: str, directory: Path) -> None:
    if not directory.is_absolute():
        raise EnvironmentLacks(f"{key} = {str(directory)!r} must be an absolute path")
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    # access(2) knows of read-only file systems, but not of those that take no new files.
    if not existing.is_dir() or not os.access(existing, os.W_OK) or _is_virtual(existing):
        raise EnvironmentLacks(
            f"cannot write to {directory}: {existing} is not writable; "
            f"set {key} to a writable directory"
        )


def _is_virtual(directory: Path) -> bool:
    return any(directory.is_relative_to(virtual) for virtual in ("/proc", "/sys"))
