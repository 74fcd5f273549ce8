"""Options of the registry room."""

from __future__ import annotations

import msgspec

from snapshotter.registry.patterns import is_pattern
from snapshotter.units import ByteSize, Seconds


class HostLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[registry.limits."HOST"]``: what may be taken from one host, all models together.

    ``HOST`` is the address asked, a registry or mirror (``mirror.example:5000``; ``docker.io``
    for Docker Hub), or ``_default`` for each host that has no limits of its own. Bytes that a
    registry redirects to its storage count as the registry's. A host at its limits is waited
    for; no other host of hosts.toml is asked in its place.
    """

    connections: int = 0
    """Ranges of blobs asked for at the same time; 0: no limit but that of ``[fetch]``."""
    requests_per_second: float = 0.0
    """Ranges asked for per second; 0: no limit."""
    bytes_per_second: ByteSize = ByteSize(0)
    """Bytes of blobs per second; 0: no limit."""

    def __post_init__(self) -> None:
        if self.connections < 0 or self.requests_per_second < 0 or self.bytes_per_second < 0:
            raise ValueError("limits must be 0 or more")


class CredentialProvider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[registry.credential_providers."NAME"]``: a kubelet image credential provider plugin.

    What kubelet's ``CredentialProviderConfig`` says of the same program. It is run as root, with
    the daemon's environment. Providers are asked in the order in which they are written.
    """

    path: str
    """The program, with its directory (kubelet's ``--image-credential-provider-bin-dir``)."""
    match_images: tuple[str, ...]
    """Images it is asked for: ``*.dkr.ecr.*.amazonaws.com``, ``registry.example.com:5000/team``."""
    default_cache_duration: Seconds = Seconds(0)
    """How long credentials are kept whose answer does not say; 0: not at all."""
    api_version: str = "credentialprovider.kubelet.k8s.io/v1"
    """The version it is asked in and must answer in."""
    args: tuple[str, ...] = ()
    """Arguments."""
    env: tuple[str, ...] = ()
    """Environment variables beside the daemon's own, as ``NAME=VALUE``."""
    timeout: Seconds = Seconds(60)
    """The longest it may take to answer."""

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError("path must be absolute")
        for pattern in self.match_images:
            if not is_pattern(pattern):
                raise ValueError(
                    f"match_images: {pattern!r} is no image such as *.registry.example.com/team"
                )
        if any("=" not in entry for entry in self.env):
            raise ValueError("env: expected NAME=VALUE")


class RegistryOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[registry]``: how registries are reached."""

    certs_d: tuple[str, ...] = ("/etc/containerd/certs.d", "/etc/docker/certs.d")
    """Directories searched in order for ``HOST/hosts.toml`` (containerd's format)."""
    docker_config: str = ""
    """Docker's ``config.json`` (or its directory) with credentials; empty means
    ``$DOCKER_CONFIG/config.json`` or ``~/.docker/config.json``."""
    pull_secrets: tuple[str, ...] = ()
    """Files with Kubernetes image pull secrets (``.dockerconfigjson``), and directories of such
    files, as a mounted Secret is; read again when they change."""
    credential_providers: dict[str, CredentialProvider] = {}
    """Kubelet's image credential provider plugins, see below."""
    plain_http: tuple[str, ...] = ()
    """Registries (``HOST:PORT``) reached without TLS. Loopback addresses always are."""
    connect_timeout: Seconds = Seconds(10)
    """How long to wait for a connection."""
    read_timeout: Seconds = Seconds(30)
    """How long to wait for the next bytes of an answer."""
    min_rate: ByteSize = ByteSize(1 << 10)
    """Bytes per second below which a blob's connection is given up, measured over
    ``read_timeout`` of waiting for them; 0: any rate will do."""
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
    avoid_failed: Seconds = Seconds(30)
    """How long a host of hosts.toml that failed is asked after all others."""
    breaker_failures: int = 5
    """Failures in a row (no answer, 5xx, broken bodies) after which a host is left alone;
    0: never."""
    breaker_pause: Seconds = Seconds(1)
    """How long a host is left alone the first time, jittered. Then one request tries it, and the
    pause doubles when that fails too."""
    breaker_max_pause: Seconds = Seconds(10)
    """Longest such pause. Keep it well below ``read_deadline`` of ``[fetch]``."""
    max_retry_after: Seconds = Seconds(300)
    """Longest pause a host may ask for (``Retry-After``); it is left alone that long."""
    limits: dict[str, HostLimits] = {}
    """Limits for hosts, see below."""

    def __post_init__(self) -> None:
        if self.breaker_failures < 0:
            raise ValueError("breaker_failures must be 0 or more")
