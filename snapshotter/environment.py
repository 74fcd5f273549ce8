"""What the daemon needs of the machine, checked before anything is made."""

from __future__ import annotations

import os
from pathlib import Path

from snapshotter.config import Config
from snapshotter.errors import ModelpackError

FUSE_DEVICE = Path("/dev/fuse")
_FUSE_TIMEOUTS = ("default_request_timeout", "max_request_timeout")


class EnvironmentLacks(ModelpackError):
    """Something the daemon needs is not there."""


def check_environment(config: Config) -> None:
    """Raises :class:`EnvironmentLacks` naming the first thing missing and what to do."""
    if os.geteuid() != 0:
        raise EnvironmentLacks(
            "the daemon must run as root: it mounts file systems for containerd "
            "(modelpack mount works without root)"
        )
    if not FUSE_DEVICE.exists():
        raise EnvironmentLacks(f"{FUSE_DEVICE} is missing: run 'modprobe fuse'")
    for key, directory in (("root", config.root), ("state", config.state)):
        _check_directory(key, Path(directory))


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
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = directory / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EnvironmentLacks(
            f"cannot write to {directory}: {error.strerror}; set {key} to a writable directory"
        ) from None
