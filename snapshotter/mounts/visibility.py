"""Whether the process that is to mount a model sees it, in its namespace of mounts.

containerd would bind the empty directory below a mount that it does not see, and say nothing.
"""

from __future__ import annotations

from pathlib import Path

from fuse.mountinfo import FuseMount, fuse_mounts
from snapshotter.mounts.errors import MountError

_OURS = Path("/proc/self/ns/mnt")


def check_seen(directory: Path, pid: int | None, who: str) -> None:
    """Raise :class:`MountError` where ``pid`` does not see what is mounted at ``directory``.

    Nothing is said of a process that is not known, or may not be looked at: `modelpack doctor`
    does. Asks the kernel only, never the mounted file system.
    """
    if pid is None:
        return
    try:
        if Path(f"/proc/{pid}/ns/mnt").readlink() == _OURS.readlink():
            return
        theirs = fuse_mounts(pid=pid)
    except OSError:
        return
    ours = _at(directory, fuse_mounts())
    seen = _at(directory, theirs)
    if ours is None or (seen is not None and seen.device == ours.device):
        return
    raise MountError(
        f"{who} (process {pid}) has a mount namespace of its own and does not see the model at "
        f"{directory}: it would mount an empty directory; `modelpack doctor` says what to change"
    )


def _at(directory: Path, mounts: list[FuseMount]) -> FuseMount | None:
    """The topmost one there."""
    return next((one for one in reversed(mounts) if one.mount_point == directory), None)
