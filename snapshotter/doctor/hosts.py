"""hosts.toml: which registries' pulls ask the mirror."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.finding import Change, Finding, error, ok, warning
from snapshotter.doctor.samples import CERTS_D
from snapshotter.registry.errors import InvalidHostsFile
from snapshotter.registry.hosts import Capability, Host, parse_hosts, same_server

PART = "registries"


@dataclass(frozen=True, slots=True)
class HostsFile:
    """A registry's hosts.toml."""

    path: Path
    registry: str
    """The directory's name: ``_default`` is all that have none."""
    hosts: tuple[Host, ...] = ()
    failure: str = ""
    """Why it cannot be read."""


def gather(directories: Iterable[str]) -> list[HostsFile]:
    found = []
    for directory in directories:
        try:
            paths = sorted(Path(directory).glob("*/hosts.toml"))
        except OSError as refused:
            found.append(HostsFile(Path(directory), "", failure=str(refused.strerror)))
            continue
        found += [_read(path) for path in paths]
    return found


def mirrored(files: Iterable[HostsFile], mirror: str) -> frozenset[str]:
    """Directories in which some registry's file names the mirror."""
    return frozenset(
        str(file.path.parent.parent)
        for file in files
        if any(same_server(host.url, mirror) for host in file.hosts)
    )


def judge(
    files: Sequence[HostsFile], mirror: str, *, needed: bool, hosts_toml: str
) -> list[Finding]:
    """``mirror``: its address; ``needed``: whether pods need it too; ``hosts_toml``: a sample."""
    found = [
        error(
            PART,
            "hosts-file",
            f"{file.path} cannot be used: {file.failure}",
            "pulls from that registry fail, or do not ask the mirror",
            Change(str(file.path), hosts_toml),
        )
        for file in files
        if file.failure
    ]
    named = []
    for file in files:
        ours = [host for host in file.hosts if same_server(host.url, mirror)]
        if ours:
            named.append(file)
            found += _wrong(file, ours[0], mirror)
    if named:
        names = ", ".join(dict.fromkeys(file.registry for file in named))
        found.append(ok(PART, "hosts-file", f"pulls ask the mirror for {names}"))
    else:
        example = Change(f"{CERTS_D}/registry.example.com/hosts.toml", hosts_toml)
        what = f"no hosts.toml names the mirror {mirror}"
        if needed:
            found.append(
                error(PART, "hosts-file", what, "pulls by tag download models as a whole", example)
            )
        else:
            found.append(
                warning(
                    PART,
                    "hosts-file",
                    what,
                    "image volumes of pods need none; ctr, nerdctl and docker download models as a "
                    "whole when they pull by tag (`modelpack pull` does not)",
                    example,
                )
            )
    return found


def _wrong(file: HostsFile, host: Host, mirror: str) -> list[Finding]:
    lines = f'[host."http://{mirror}"]\n  capabilities = ["pull", "resolve"]\n'
    needs = Capability.PULL | Capability.RESOLVE
    if host.url.startswith("https:"):
        what = f"{file.path} names the mirror with https"
    elif needs not in host.capabilities:
        what = f"{file.path} does not let the mirror both pull and resolve"
    else:
        return []
    return [
        error(
            PART,
            "hosts-file",
            what,
            "models are not asked from it, and downloaded as a whole",
            Change(str(file.path), lines),
        )
    ]


def _read(path: Path) -> HostsFile:
    registry = path.parent.name
    try:
        text = path.read_text()
        return HostsFile(path, registry, tuple(parse_hosts(text, registry, path)))
    except InvalidHostsFile as broken:
        return HostsFile(path, registry, failure=str(broken).removeprefix(f"{path}: "))
    except (OSError, UnicodeDecodeError) as broken:
        return HostsFile(
            path, registry, failure=str(getattr(broken, "strerror", "") or "not UTF-8")
        )
