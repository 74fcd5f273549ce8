"""sd_notify(3): what a service tells systemd of itself."""

from __future__ import annotations

import os
import socket


def notify(state: str) -> None:
    """Say ``READY=1`` and the like where systemd listens. Raises :class:`OSError`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.connect(address)
        systemd.sendall(state.encode())
