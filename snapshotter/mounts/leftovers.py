"""What an earlier life left on this machine: mounts that are held for us, and dead ones."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Mapping
from pathlib import Path

import structlog

from fuse.mount import MountError as FuseMountError
from fuse.mount import fuse_mounts, unmount
from snapshotter.keeper.keeping import Held, Keeping
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.inheritance import Inherited, decode_record, shown_at, unclaimed
from snapshotter.mounts.ledger import recorded_device
from snapshotter.mounts.serving import FILESYSTEM

log = structlog.get_logger(__name__)


def heirlooms(keeper: Keeping) -> list[Inherited]:
    """What the keeper holds that is still mounted somewhere; the rest is dropped."""
    found: list[tuple[Held, int]] = []
    for held in keeper.inherited:
        if len(held.files) == 2 and _connected(held.files[0]):
            found.append((held, recorded_device(held.files[1])))
        else:
            _drop(keeper, held)  # unmounted meanwhile, or never mounted
    mounts = fuse_mounts(FILESYSTEM)
    known = {device for _, device in found}
    inherited = []
    for held, device in found:
        try:
            record = decode_record(held.record)
        except MountError as error:
            log.error("a mount ends, it cannot be served on", error=str(error))
            _drop(keeper, held)
            continue
        shown = shown_at(Path(record.directory), device, mounts, known)
        keeper.adopt(held)
        fd, ledger = held.files
        inherited.append(Inherited(held.id, record, fd, ledger, shown or device, shown != 0))
    return inherited


def detach_leftovers(root: Path, claimed: Mapping[int, str]) -> None:
    """Mounts of an earlier life that nobody serves: they would answer ENOTCONN for ever."""
    for left in unclaimed(root, fuse_mounts(FILESYSTEM), claimed):
        try:
            unmount(left.mount_point, lazy=True)
        except FuseMountError as error:
            raise MountError(f"cannot remove the mount an earlier daemon left: {error}") from None
        log.info("removed a mount of an earlier life", directory=str(left.mount_point))


def remove_empty(root: Path) -> None:
    """Directories made for mounts that never were, or are no more."""
    mounted = {mount.mount_point for mount in fuse_mounts()}
    with os.scandir(root) as entries:
        paths = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    for path in paths:
        if path in mounted:
            continue
        try:
            path.rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EBUSY):
                raise MountError(f"cannot remove {path}: {error.strerror}") from None


def _connected(fd: int) -> bool:
    """Whether a descriptor of /dev/fuse belongs to a mount that somebody still has.

    The kernel polls EPOLLERR for one that was never mounted, unmounted or aborted.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return not any(events & (select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))


def _drop(keeper: Keeping, held: Held) -> None:
    keeper.drop(held.id)
    for fd in held.files:
        os.close(fd)
