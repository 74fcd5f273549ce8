"""The containerd that runs: who it is, what it loaded, what its configuration says.

Gathering only; :mod:`.rules` judges.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from proto.containerd.services.introspection.v1 import introspection_pb2, introspection_pb2_grpc
from proto.containerd.services.version.v1 import version_pb2_grpc
from proto.cri.runtime.v1 import api_pb2
from proto.cri.runtime.v1.api_pb2_grpc import RuntimeServiceStub
from snapshotter.doctor.effective import Effective, parse
from snapshotter.sockets import listener_of

_SECONDS = 5.0
_DUMP_SECONDS = 15.0
_DEFAULT_CONFIG = "/etc/containerd/config.toml"


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that containerd knows of."""

    type: str
    id: str
    failure: str
    """Why it did not load; empty: it did."""


@dataclass(frozen=True, slots=True)
class ContainerdFacts:
    """A containerd, as far as it could be looked at."""

    address: Path
    failure: str = ""
    """Why it does not answer; most of the rest is unknown then."""
    hidden: bool = False
    """Whether permissions keep this user from asking it."""
    version: str = ""
    pid: int | None = None
    plugins: Sequence[Plugin] = ()
    config_file: str = _DEFAULT_CONFIG
    effective: Effective | None = None
    """None: not to be had, see ``dump_failure``."""
    dump_failure: str = ""
    changed_since_start: bool = False
    """Whether the configuration file is newer than the process."""
    running_handlers: Mapping[str, str] | None = None
    """Runtime handler -> snapshotter, as CRI says it runs. None: CRI does not answer."""
    user_namespaces: Mapping[str, bool] | None = None
    """Runtime handler -> whether its runc can map the IDs of mounts, as pods with a user
    namespace need. None: CRI does not tell, which it does since 2.0."""
    exports_roots: Mapping[str, bool] = field(default_factory=dict)
    """Each root that a proxy plugin exports: is it a directory?"""

    @property
    def release(self) -> tuple[int, int]:
        """Major and minor; (0, 0) when not known."""
        match = re.match(r"v?(\d+)\.(\d+)", self.version)
        return (int(match[1]), int(match[2])) if match else (0, 0)


def gather(address: Path) -> ContainerdFacts:
    """Takes at most half a minute."""
    pid = listener_of(address)
    if address.exists() and not os.access(address, os.W_OK):
        return ContainerdFacts(address, failure="this user may not open its socket", hidden=True)
    try:
        with _channel(address) as channel:
            version = version_pb2_grpc.VersionStub(channel).Version(Empty(), timeout=_SECONDS)
            plugins = _plugins(channel)
            handlers, user_namespaces = _running_handlers(channel)
    except grpc.RpcError as refused:
        return ContainerdFacts(address, failure=_why(address, refused), pid=pid)
    config_file, effective, dump_failure = _DEFAULT_CONFIG, None, "its process is not known"
    if pid is not None:
        config_file, effective, dump_failure = dump(pid)
    proxies = effective.proxies if effective is not None else ()
    return ContainerdFacts(
        address,
        version=version.version,
        pid=pid,
        plugins=plugins,
        config_file=config_file,
        effective=effective,
        dump_failure=dump_failure,
        changed_since_start=pid is not None and _changed(pid, config_file),
        running_handlers=handlers,
        user_namespaces=user_namespaces,
        exports_roots={proxy.root: Path(proxy.root).is_dir() for proxy in proxies if proxy.root},
    )


def dump(pid: int) -> tuple[str, Effective | None, str]:
    """Configuration file, what it comes to, and why that is not known."""
    process = Path("/proc") / str(pid)
    try:
        arguments = [os.fsdecode(part) for part in (process / "cmdline").read_bytes().split(b"\0")]
        directory = str((process / "cwd").readlink())
        (process / "exe").readlink()
        owner = process.stat().st_uid
    except OSError as refused:
        return _DEFAULT_CONFIG, None, f"process {pid} cannot be looked at: {refused.strerror}"
    config_file = config_of(arguments, directory)
    if owner not in (0, os.geteuid()):
        return config_file, None, f"process {pid} runs as user {owner}; its program is not run here"
    try:
        done = subprocess.run(
            [arguments[0], "--config", config_file, "config", "dump"],
            executable=process / "exe",
            capture_output=True,
            timeout=_DUMP_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            return config_file, None, f"`containerd config dump` said: {said[-1][:300]}"
        return config_file, parse(tomllib.loads(done.stdout.decode())), ""
    except subprocess.TimeoutExpired:
        return config_file, None, f"`containerd config dump` took more than {_DUMP_SECONDS:g} s"
    except (OSError, ValueError) as broken:
        return config_file, None, f"`containerd config dump` failed: {type(broken).__name__}"


def config_of(arguments: Sequence[str], directory: str) -> str:
    """The configuration file a containerd with these arguments, started there, reads. Pure."""
    value = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, separator, inline = argument.partition("=")
        if name in ("--config", "-config", "-c", "--c"):
            value = inline if separator else following
    return str(Path(directory) / value) if value else _DEFAULT_CONFIG


def _plugins(channel: grpc.Channel) -> list[Plugin]:
    answer = introspection_pb2_grpc.IntrospectionStub(channel).Plugins(
        introspection_pb2.PluginsRequest(), timeout=_SECONDS
    )
    return [Plugin(p.type, p.id, p.init_err.message) for p in answer.plugins]


def _running_handlers(
    channel: grpc.Channel,
) -> tuple[dict[str, str] | None, dict[str, bool] | None]:
    """CRI tells its own configuration to those who ask for a verbose status."""
    try:
        answer = RuntimeServiceStub(channel).Status(
            api_pb2.StatusRequest(verbose=True), timeout=_SECONDS
        )
    except grpc.RpcError:
        return None, None
    # The default handler is told of twice, by its name and without one.
    namespaces = {
        handler.name: handler.features.user_namespaces
        for handler in answer.runtime_handlers
        if handler.name
    }
    try:
        runtimes = json.loads(answer.info["config"])["containerd"]["runtimes"]
        snapshotters = {name: str(each.get("snapshotter", "")) for name, each in runtimes.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, namespaces or None
    return snapshotters, namespaces or None


def _changed(pid: int, config_file: str) -> bool:
    try:
        written = Path(config_file).stat().st_mtime
        return written > started_at(pid)
    except (OSError, ValueError, IndexError):
        return False


def started_at(pid: int) -> float:
    """Seconds since 1970, to about a hundredth: ``starttime`` of proc_pid_stat(5)."""
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    if boot is None:
        raise ValueError("/proc/stat has no btime")
    # btime is a whole second; rounding up never takes a file for newer that is older.
    return int(boot[1]) + 1 + int(fields[19]) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _channel(address: Path) -> Iterator[grpc.Channel]:
    options: list[tuple[str, Any]] = [("grpc.max_receive_message_length", 16 << 20)]
    with grpc.insecure_channel(f"unix:{address}", options=options) as channel:
        yield channel


def _why(address: Path, refused: grpc.RpcError) -> str:
    if not address.exists():
        return "there is no such socket"
    return str(refused.details()).splitlines()[0][:300]
