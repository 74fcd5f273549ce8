"""Mounting and unmounting: mount(2) where allowed, else the setuid program fusermount3.

Mounts are read-only, nosuid and nodev, and always have ``default_permissions``: the kernel
checks modes itself (so it never asks ACCESS), and id-mapped mounts need it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from fuse import fusermount
from fuse.errors import MountError
from fuse.mountinfo import fuse_mounts

__all__ = ["MountError", "fuse_mounts", "mount", "set_readahead", "unmount"]

_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_libc = ctypes.CDLL(None, use_errno=True)


def mount(
    directory: str | os.PathLike[str],
    *,
    fsname: str,
    subtype: str = "modelpack",
    allow_other: bool = True,
    max_read: int = 1 << 20,
    opened: Callable[[int], None] | None = None,
) -> int:
    """Mount at an existing directory; the descriptor of /dev/fuse to serve it with.

    ``fsname`` is what mount(8) shows as the source, ``fuse.<subtype>`` the type.
    ``allow_other`` lets other users in (for non-root, /etc/fuse.conf has to allow it).
    ``max_read`` is the largest READ in bytes. ``opened`` is called with the descriptor before
    there is a mount, so that somebody else can hold it too from the first moment on (root only).

    Calls on the mount wait until a :class:`fuse.session.Session` serves it. Closing the
    last duplicate of the descriptor ends the service; the mount then stays, and answers
    ENOTCONN, until :func:`unmount`.

    :class:`MountError` says what is missing and what to do.
    """
    path = os.fspath(directory)
    _check_directory(path)
    options = ["default_permissions", f"max_read={max_read}"]
    if allow_other:
        options.append("allow_other")
    if os.geteuid() != 0:
        return fusermount.mount(path, [*options, f"fsname={fsname}", f"subtype={subtype}", "ro"])
    fd = _open_device()
    try:
        if opened is not None:
            opened(fd)
        identity = f"fd={fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
        _mount(fsname, path, f"fuse.{subtype}", ",".join([identity, *options]))
    except BaseException:
        os.close(fd)
        raise
    return fd


def unmount(directory: str | os.PathLike[str], *, lazy: bool = False) -> None:
    """Unmount; never waits for the server.

    ``lazy`` takes the mount out of the tree at once and lets go of it when its last file is
    closed. Otherwise EBUSY while one is open. :class:`MountError` with the errno.
    """
    path = os.fspath(directory)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if _libc.umount2(os.fsencode(path), flags) == 0:
        return
    number = ctypes.get_errno()
    if number == errno.EPERM and os.geteuid() != 0:
        fusermount.unmount(path, lazy=lazy)
        return
    advice = {
        errno.EBUSY: "files of it are in use; close them or unmount lazily",
        errno.EINVAL: "nothing is mounted there",
        errno.ENOENT: "there is no such directory",
        errno.EPERM: "not permitted; CAP_SYS_ADMIN is needed",
    }.get(number, os.strerror(number))
    raise MountError(number, f"cannot unmount {path}: {advice}")


def set_readahead(directory: str | os.PathLike[str], kib: int) -> bool:
    """Set how far the kernel reads ahead on a mount of ours, in KiB (its default is 128).

    False when it could not be set: not root, /sys not writable, or nothing mounted there.
    """
    path = Path(os.path.abspath(directory))  # noqa: PTH100 - resolve() would ask the server
    for found in reversed(fuse_mounts()):
        if found.mount_point == path.parent.resolve() / path.name:
            try:
                Path(f"/sys/class/bdi/{found.device}/read_ahead_kb").write_text(f"{kib}\n")
            except OSError:
                return False
            return True
    return False


def _check_directory(path: str) -> None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - the errors are what matters
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountError(
                errno.ENOTCONN,
                f"cannot mount at {path}: a FUSE mount whose server has ended is still there; "
                f"remove it with: umount {path}",
            ) from None
        if error.errno == errno.ENOENT:
            raise MountError(
                errno.ENOENT, f"cannot mount at {path}: no such directory; create it first"
            ) from None
        raise MountError(
            error.errno or errno.EIO, f"cannot mount at {path}: {error.strerror}"
        ) from None
    if not stat.S_ISDIR(mode):
        raise MountError(errno.ENOTDIR, f"cannot mount at {path}: it is no directory")


def _open_device() -> int:
    try:
        return os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            advice = "the kernel module is not there; load it with: modprobe fuse"
        else:
            advice = f"{error.strerror}; in a container pass the device through"
        raise MountError(error.errno or errno.EIO, f"cannot open /dev/fuse: {advice}") from None


def _mount(source: str, path: str, kind: str, data: str) -> None:
    result = _libc.mount(
        source.encode(),
        os.fsencode(path),
        kind.encode(),
        ctypes.c_ulong(_MS_RDONLY | _MS_NOSUID | _MS_NODEV),
        data.encode(),
    )
    if result == 0:
        return
    number = ctypes.get_errno()
    advice = {
        errno.EPERM: "not permitted; CAP_SYS_ADMIN is needed (in a container: privileged)",
        errno.ENODEV: "the kernel has no FUSE; load it with: modprobe fuse",
    }.get(number, os.strerror(number))
    raise MountError(number, f"cannot mount at {path}: {advice}")
