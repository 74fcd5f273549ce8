"""The mirror endpoint on its socket, in a thread of its own."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from snapshotter.artifact.descriptor import Platform
from snapshotter.images.errors import ImageError
from snapshotter.images.lookup import ModelLookup, Upstream
from snapshotter.images.mirror_app import Mirror
from snapshotter.images.options import MirrorOptions
from snapshotter.images.platform import host_platform
from snapshotter.images.presented import Presented
from snapshotter.images.stub_store import StubStore
from snapshotter.registry.errors import InvalidHostsFile
from snapshotter.registry.hosts import find_hosts, same_server
from snapshotter.registry.pull_secrets import PullSecret
from snapshotter.wsgi import WsgiServer

__all__ = ["MirrorOptions", "MirrorServer", "named_in_hosts", "serve"]

log = structlog.get_logger(__name__)

_THREADS = 16


class MirrorServer:
    """A mirror that listens; made by :func:`serve`."""

    def __init__(self, mirror: Mirror, listener: socket.socket) -> None:
        self._server = WsgiServer(mirror, listener, name="modelpack-mirror", threads=_THREADS)
        host, self.port = listener.getsockname()[:2]
        self.address = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        """As in the options, with the port that was given for port 0."""

    def start(self) -> None:
        self._server.start()
        log.info("mirror listening", address=self.address)

    def stop(self) -> None:
        """Close the socket and every connection; answers under way are cut off."""
        self._server.stop()


def serve(
    options: MirrorOptions,
    upstream: Upstream,
    root: Path,
    *,
    serves: Callable[[str], bool],
    platform: Platform | None = None,
    upstream_for: Callable[[PullSecret], Upstream] | None = None,
    keep_secret: Callable[[str, str, PullSecret], None] = lambda *_: None,
) -> MirrorServer:
    """Listen and answer until ``stop()``; stubs are kept below ``root``.

    With ``upstream_for``, registries as asked by somebody, clients are asked for credentials
    where those of ``upstream`` are refused; ``keep_secret`` is told which found a model.

    ``serves`` says which registries are answered for when the options name none,
    see :func:`named_in_hosts`. Raises :class:`ImageError` naming the configuration
    key when the address cannot be used.
    """
    platform = platform or host_platform()
    lookup = ModelLookup(upstream, platform, timeout=options.upstream_timeout, keep=options.keep)
    presented = Presented(options, platform, upstream_for, keep_secret) if upstream_for else None
    mirror = Mirror(options, lookup, StubStore(root), platform, serves, presented)
    server = MirrorServer(mirror, _listen(options))
    server.start()
    return server


def named_in_hosts(address: str, certs_d: Sequence[str]) -> Callable[[str], bool]:
    """Whether a registry's ``hosts.toml`` in one of ``certs_d`` names the mirror at ``address``.

    Files are read at every question, so what an administrator adds counts at once.
    """

    def names(registry: str, directory: str) -> bool:
        try:
            hosts = find_hosts(registry, certs_d=(directory,))
        except InvalidHostsFile as error:
            log.warning("hosts.toml ignored", registry=registry, error=str(error))
            return False
        return any(same_server(host.url, address) for host in hosts)

    # One by one: containerd's and Docker's directories may both have the registry.
    return lambda registry: any(names(registry, directory) for directory in certs_d)


def _listen(options: MirrorOptions) -> socket.socket:
    ip, port = _parse_address(options.address)
    if not ip.is_loopback and not options.allow_remote:
        raise ImageError(
            f"mirror address {options.address} is not loopback: whoever reaches it could ask "
            "with this machine's credentials; set [mirror] address to 127.0.0.1:7670, or "
            "allow_remote = true"
        )
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(ip), port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = "it is in use; stop the program that listens there, or choose another port"
        else:
            why = f"{error.strerror}; choose another address"
        raise ImageError(
            f"mirror cannot listen on {options.address}: {why} in [mirror] address and in "
            "hosts.toml"
        ) from None
    return listener


def _parse_address(address: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+|localhost):([0-9]{1,5})", address)
    host = match[1].strip("[]") if match else ""
    try:
        ip = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        port = int(match[2]) if match else -1
        if not 0 <= port <= 65535:
            raise ValueError
    except ValueError:
        raise ImageError(
            f"[mirror] address {address!r} is no IP address and port: write 127.0.0.1:7670"
        ) from None
    return ip, port
