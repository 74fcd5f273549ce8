"""The daemon's configuration: one TOML file, every key with a default, unknown keys refused.

Each room declares its own options; here they are put together. The reference
in docs/configuration.md follows these classes, and a test holds it to that.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from snapshotter.cache.options import CacheOptions
from snapshotter.errors import ModelpackError
from snapshotter.fetch.options import FetchOptions
from snapshotter.fetch.verify_options import VerifyOptions
from snapshotter.images.options import CriOptions, ImageOptions, MirrorOptions
from snapshotter.mounts.options import MountOptions
from snapshotter.registry.options import RegistryOptions
from snapshotter.units import UnitError, decode_unit

DEFAULT_PATH = Path("/etc/modelpack-snapshotter/config.toml")


class ConfigError(ModelpackError):
    """The configuration file cannot be used."""


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class GrpcOptions(_Section, frozen=True):
    """The socket containerd's ``[proxy_plugins.modelpack]`` names."""

    address: str = ""
    """Path of the unix socket; empty: ``<state>/snapshotter.sock``."""


class ApiOptions(_Section, frozen=True):
    """The socket `modelpack status` asks."""

    address: str = ""
    """Path of the unix socket; empty: ``<state>/api.sock``."""


class ContainerdOptions(_Section, frozen=True):
    """Where containerd is asked which image an image volume belongs to."""

    address: str = "/run/containerd/containerd.sock"
    """Path of containerd's gRPC socket."""


class LogOptions(_Section, frozen=True):
    """Logs go to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe events that are written."""
    format: Literal["text", "json"] = "text"
    """``text`` is key=value for people, ``json`` one object a line for collectors."""


class Config(_Section, frozen=True):
    """The whole file."""

    root: str = "/var/lib/modelpack-snapshotter"
    """What must outlive a reboot: snapshots, blob cache, stub images."""
    state: str = "/run/modelpack-snapshotter"
    """What need not: sockets and mount points. Must be visible in containerd's mount namespace."""
    grpc: GrpcOptions = GrpcOptions()
    api: ApiOptions = ApiOptions()
    images: ImageOptions = ImageOptions()
    mirror: MirrorOptions = MirrorOptions()
    cri: CriOptions = CriOptions()
    containerd: ContainerdOptions = ContainerdOptions()
    registry: RegistryOptions = RegistryOptions()
    cache: CacheOptions = CacheOptions()
    fetch: FetchOptions = FetchOptions()
    verify: VerifyOptions = VerifyOptions()
    mounts: MountOptions = MountOptions()
    log: LogOptions = LogOptions()

    @property
    def grpc_address(self) -> Path:
        return Path(self.grpc.address or Path(self.state) / "snapshotter.sock")

    @property
    def api_address(self) -> Path:
        return Path(self.api.address or Path(self.state) / "api.sock")

    @property
    def cri_address(self) -> Path | None:
        """None when the image service proxy is off."""
        if not self.cri.enabled:
            return None
        return Path(self.cri.address or Path(self.state) / "cri.sock")


def load_config(path: Path | None = None) -> Config:
    """Read ``path``, or the default place where a file may be missing.

    Raises :class:`ConfigError` naming the file, the key and what is expected.
    """
    if path is None:
        if not DEFAULT_PATH.exists():
            return Config()
        path = DEFAULT_PATH
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot read configuration {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    return parse_config(table, str(path))


def parse_config(table: dict[str, Any], source: str) -> Config:
    """Check a TOML table against :class:`Config`."""
    try:
        return msgspec.convert(table, Config, dec_hook=decode_unit)
    except (msgspec.ValidationError, UnitError) as error:
        raise ConfigError(f"{source}: {_explain(str(error))}") from None


def _explain(message: str) -> str:
    """msgspec speaks of JSON objects and ``$.fetch``; an administrator thinks in sections."""
    unknown = re.fullmatch(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?", message)
    if unknown is None:
        return re.sub(r" - at `\$\.?(.*?)`", r" (at \1)", message)
    key, section = unknown[1], unknown[2] or ""
    options: type[msgspec.Struct] = Config
    section = section.replace(
        "[...]", "[]"
    )  # a key of the administrator's own, as msgspec shows it
    for name in filter(None, section.split(".")):
        table = name.removesuffix("[]")
        options = next(f.type for f in msgspec.structs.fields(options) if f.name == table)
        if table != name:
            options = get_args(options)[1]
    known = [field.name for field in msgspec.structs.fields(options)]
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown key {key!r} {f'in [{section}]' if section else 'at top level'}; {hint}"
