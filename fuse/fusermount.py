"""Mounting without privilege, through fusermount3 of the package fuse3.

It opens /dev/fuse and mounts as root, and hands the descriptor over the socket whose
number stands in ``_FUSE_COMMFD``.
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence

from fuse.errors import MountError

_PROGRAM = "fusermount3"


def mount(path: str, options: Sequence[str]) -> int:
    """Mount at ``path`` with the options of fusermount3(1); the descriptor of /dev/fuse."""
    program = _find(f"cannot mount at {path}")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        done = _run(
            [program, "-o", ",".join(map(_escape, options)), "--", path],
            pass_fds=(theirs.fileno(),),
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
        )
        theirs.close()
        fds = socket.recv_fds(ours, 1, 1)[1] if done.returncode == 0 else []
    if not fds:
        raise MountError(errno.EPERM, f"cannot mount at {path}: {_reason(done)}")
    os.set_inheritable(fds[0], False)
    return fds[0]


def unmount(path: str, *, lazy: bool) -> None:
    """Unmount what :func:`mount` mounted for the same user."""
    program = _find(f"cannot unmount {path}")
    done = _run([program, "-u", *(["-z"] if lazy else []), "--", path])
    if done.returncode != 0:
        raise MountError(errno.EPERM, f"cannot unmount {path}: {_reason(done)}")


def _find(what: str) -> str:
    program = shutil.which(_PROGRAM)
    if program is None:
        raise MountError(
            errno.EPERM, f"{what}: needs root, or {_PROGRAM}: install the package fuse3"
        )
    return program


def _run(
    command: Sequence[str], *, pass_fds: Sequence[int] = (), env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        pass_fds=pass_fds,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    said = " ".join(done.stderr.split())
    return said or f"{_PROGRAM} ended with status {done.returncode}"


def _escape(option: str) -> str:
    """fusermount3 takes a backslash before a comma that belongs to a value."""
    return option.replace("\\", "\\\\").replace(",", "\\,")
