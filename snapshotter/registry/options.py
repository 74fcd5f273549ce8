"""Options of the registry room."""

from __future__ import annotations

import msgspec

from snapshotter.units import ByteSize, Seconds


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[registry]``: how registries are reached."""

    certs_d: tuple[str, ...] = ("/etc/containerd/certs.d", "/etc/docker/certs.d")
    """Directories searched in order for ``HOST/hosts.toml`` (containerd's format)."""
    docker_config: str = ""
    """Docker's ``config.json`` (or its directory) with credentials; empty means
    ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``."""
    plain_http: tuple[str, ...] = ()
    """Registries (``HOST:PORT``) reached without TLS. Loopback addresses always are."""
    connect_timeout: Seconds = Seconds(10)
    """How long to wait for a connection."""
    read_timeout: Seconds = Seconds(30)
    """How long to wait for the next bytes of an answer."""
    answer_timeout: Seconds = Seconds(60)
    """How long one manifest, token or error answer may take altogether."""
    commit_timeout: Seconds = Seconds(600)
    """How long a registry may take to accept a blob after its last byte was sent."""
    manifest_limit: ByteSize = ByteSize(8 << 20)
    """Largest manifest that is read."""
    idle_connections: int = 32
    """Connections per host that are kept open for the next blob read."""
    idle_timeout: Seconds = Seconds(50)
    """How long an unused connection is kept."""
