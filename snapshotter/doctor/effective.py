"""What a containerd is configured to do: `containerd config dump`, of any version, made one. Pure.

The layout of the file changed with 2.0; the names here are those of 2.1's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CRI_1 = "io.containerd.grpc.v1.cri"
_IMAGES = "io.containerd.cri.v1.images"
_RUNTIME = "io.containerd.cri.v1.runtime"
_TRANSFER = "io.containerd.transfer.v1.local"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An entry of ``proxy_plugins``."""

    name: str
    type: str
    address: str
    root: str
    """Of its exports; empty: none."""
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpack:
    """An entry of the transfer service's ``unpack_config``."""

    platform: str
    snapshotter: str
    config_type: str
    layer_types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Effective:
    """What matters to models."""

    proxies: tuple[Proxy, ...]
    unpack: tuple[Unpack, ...]
    cri: bool
    """Whether CRI is enabled."""
    snapshotter: str
    """CRI's default one."""
    default_runtime: str
    handlers: Mapping[str, str]
    """Runtime handler -> its snapshotter, empty for the default one."""
    config_path: str
    """CRI's ``registry.config_path``: where hosts.toml files are."""
    inline_registry: tuple[str, ...]
    """Which of mirrors, configs and auths are set inline."""
    images: Mapping[str, Any]
    """The other settings of CRI's image service, by name."""


def parse(dump: Mapping[str, Any]) -> Effective:
    """``dump``: the TOML document that `containerd config dump` prints."""
    plugins = _table(dump, "plugins")
    if _IMAGES in plugins or _RUNTIME in plugins:
        images = _table(plugins, _IMAGES)
        runtimes = _table(plugins, _RUNTIME, "containerd")
        registry = _table(images, "registry")
        settings = dict(images)
    else:
        cri = _table(plugins, _CRI_1)
        runtimes = _table(cri, "containerd")
        registry = _table(cri, "registry")
        settings = {**cri, **runtimes}
    disabled = dump.get("disabled_plugins") or []
    return Effective(
        proxies=tuple(
            Proxy(
                name,
                str(entry.get("type", "")),
                str(entry.get("address", "")),
                str(_table(entry, "exports").get("root", "")),
                tuple(map(str, entry.get("capabilities") or ())),
            )
            for name, entry in _table(dump, "proxy_plugins").items()
            if isinstance(entry, Mapping)
        ),
        unpack=tuple(
            Unpack(
                str(entry.get("platform", "")),
                str(entry.get("snapshotter", "")),
                str(entry.get("config_type", "")),
                tuple(map(str, entry.get("layer_types") or ())),
            )
            for entry in _table(plugins, _TRANSFER).get("unpack_config") or ()
            if isinstance(entry, Mapping)
        ),
        cri=not {"cri", _CRI_1, _IMAGES, _RUNTIME} & {str(name) for name in disabled},
        snapshotter=str(settings.get("snapshotter", "")),
        default_runtime=str(runtimes.get("default_runtime_name", "")),
        handlers={
            name: str(runtime.get("snapshotter", ""))
            for name, runtime in _table(runtimes, "runtimes").items()
            if isinstance(runtime, Mapping)
        },
        config_path=str(registry.get("config_path", "")),
        inline_registry=tuple(
            name for name in ("mirrors", "configs", "auths") if registry.get(name)
        ),
        images=settings,
    )


def _table(document: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        value = document.get(name)
        document = value if isinstance(value, Mapping) else {}
    return document
