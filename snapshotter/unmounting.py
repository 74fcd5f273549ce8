"""`modelpack-snapshotter --unmount`: what keeps mounts from outliving the daemon for ever."""

from __future__ import annotations

import os
from pathlib import Path

from fuse.mount import MountError as FuseMountError
from fuse.mount import fuse_mounts, unmount
from snapshotter.config import Config
from snapshotter.keeper.link import Link, NoKeeper
from snapshotter.locks import lock_directory
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.serving import FILESYSTEM


def unmount_all(config: Config) -> int:
    """Detach every model of this state directory and end its keeper; how many there were.

    Who still reads one gets ENOTCONN. Raises :class:`ModelpackError`, among others while a
    daemon runs.
    """
    state = Path(config.state).resolve()
    if not state.is_dir():
        return 0
    lock = lock_directory(state)
    try:
        count = 0
        for left in reversed(fuse_mounts(FILESYSTEM)):
            if left.mount_point.parent == state / "mounts":
                try:
                    unmount(left.mount_point, lazy=True)
                    left.mount_point.rmdir()
                except (FuseMountError, OSError) as error:
                    raise MountError(f"cannot unmount {left.mount_point}: {error}") from None
                count += 1
        try:
            keeper = Link(config.keeper_address)
        except NoKeeper:
            return count
        keeper.quit()
        keeper.close()
        return count
    finally:
        os.close(lock)
