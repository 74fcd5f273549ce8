"""Unix sockets of our own: a directory nobody else may enter, no leftovers in the way."""

from __future__ import annotations

import socket
import stat
import struct
from pathlib import Path

from snapshotter.errors import ModelpackError

_PATH_LIMIT = 107
"""``sun_path`` of unix(7) less its final NUL."""

_LISTENER_SECONDS = 5.0


class SocketError(ModelpackError):
    """A unix socket cannot be made."""


def prepare_socket(path: Path) -> None:
    """Make ``path``'s directory (0700 when new) and remove the socket of a dead process.

    Raises :class:`SocketError` when somebody listens there, or when something else is in the way.
    """
    if len(str(path).encode()) > _PATH_LIMIT:
        raise SocketError(f"socket path {path} is longer than {_PATH_LIMIT} bytes; shorten it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"cannot make socket {path}: {error.strerror}") from None
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path} exists and is no socket; remove it or configure another address")
    if _answers(path):
        raise SocketError(
            f"{path} is in use: another modelpack-snapshotter serves there; "
            "stop it or give this one a root, state and addresses of its own"
        )
    path.unlink(missing_ok=True)


def listen_unix(path: Path) -> socket.socket:
    """A listening socket at ``path``, mode 0600; :class:`SocketError` when there cannot be one."""
    prepare_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
    except OSError as error:
        listener.close()
        raise SocketError(f"cannot listen on {path}: {error.strerror}") from None
    return listener


def listener_of(path: Path) -> int | None:
    """The process that listens on a unix socket; None when it is not to be known."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_LISTENER_SECONDS)
        try:
            probe.connect(str(path))
            credentials = probe.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
            )
        except OSError:
            return None
    pid: int = struct.unpack("3i", credentials)[0]
    # 1 is systemd with socket activation, 0 a process of another namespace.
    return pid if pid > 1 else None


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True
