"""The kernel, its FUSE, and what the daemon's process may do."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.finding import Change, Finding, error, ok, run, unknown, warning

PART = "kernel"
_SYSCTLS = Path("/proc/sys/fs/fuse")
_TIMEOUTS = ("default_request_timeout", "max_request_timeout")
_CAP_SYS_ADMIN = 21  # capability.h
_FILES = 65536
_SYSCTL_FILE = "/etc/sysctl.d/90-modelpack.conf"


@dataclass(frozen=True, slots=True)
class KernelFacts:
    release: str
    """As of uname(2), e.g. ``6.9.3-amd64``."""
    fuse_device: bool
    sysctls: dict[str, int]
    """Of fs.fuse, those that exist."""
    daemon: int | None
    """The daemon's pid, if it runs."""
    capabilities: int | None
    """Effective ones of the daemon, else of this process; a bit mask. None: not to be read."""
    open_files: int | None
    """The same process's hard limit."""


def gather(daemon: int | None) -> KernelFacts:
    sysctls = {}
    for name in (*_TIMEOUTS, "max_pages_limit"):
        try:
            sysctls[name] = int((_SYSCTLS / name).read_text())
        except (OSError, ValueError):
            continue
    process = Path("/proc") / (str(daemon) if daemon else "self")
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)$", _read(process / "status"), re.MULTILINE)
    files = re.search(r"^Max open files\s+\S+\s+(\d+)", _read(process / "limits"), re.MULTILINE)
    return KernelFacts(
        release=platform.release(),
        fuse_device=Path("/dev/fuse").exists(),
        sysctls=sysctls,
        daemon=daemon,
        capabilities=int(capabilities[1], 16) if capabilities else None,
        open_files=int(files[1]) if files else None,
    )


def judge(facts: KernelFacts, *, max_read: int) -> list[Finding]:
    """``max_read``: bytes, as configured for mounts."""
    return [
        _release(facts.release),
        _device(facts.fuse_device),
        *_timeouts(facts.sysctls),
        *_pages(facts.sysctls, max_read),
        _capability(facts),
        _files(facts),
    ]


def parse_release(release: str) -> tuple[int, int]:
    """Major and minor; (0, 0) when there are none."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _release(release: str) -> Finding:
    version = parse_release(release)
    if version < (5, 15):
        return error(
            PART,
            "kernel-version",
            f"Linux {release} is older than 5.15",
            "models are mounted with what FUSE has since 5.15",
            run("# install a kernel of 5.15 or newer; 6.9 has passthrough"),
        )
    if version < (6, 9):
        return warning(
            PART,
            "kernel-version",
            f"Linux {release} is older than 6.9",
            "complete files are read through the daemon instead of by the kernel itself, and "
            "reads that are under way when the daemon is killed fail",
            run("# install a kernel of 6.9 or newer"),
        )
    return ok(PART, "kernel-version", f"Linux {release}")


def _device(there: bool) -> Finding:
    if there:
        return ok(PART, "fuse-device", "/dev/fuse is there")
    return error(
        PART,
        "fuse-device",
        "/dev/fuse is missing",
        "nothing can be mounted without it",
        run("modprobe fuse", "echo fuse > /etc/modules-load.d/fuse.conf"),
    )


def _timeouts(sysctls: dict[str, int]) -> list[Finding]:
    found = []
    for name in _TIMEOUTS:
        seconds = sysctls.get(name, 0)
        if seconds > 0:
            found.append(
                warning(
                    PART,
                    "fuse-request-timeout",
                    f"fs.fuse.{name} is {seconds} s",
                    "the kernel aborts a whole mount when one read waits longer for a registry",
                    run(f"sysctl -w fs.fuse.{name}=0"),
                    Change(_SYSCTL_FILE, f"fs.fuse.{name} = 0"),
                )
            )
    return found or [ok(PART, "fuse-request-timeout", "FUSE requests have no time limit")]


def _pages(sysctls: dict[str, int], max_read: int) -> list[Finding]:
    limit = sysctls.get("max_pages_limit")
    wanted = -(-max_read // os.sysconf("SC_PAGESIZE"))
    if limit is None:
        return []
    if limit < wanted:
        return [
            warning(
                PART,
                "fuse-max-pages",
                f"fs.fuse.max_pages_limit is {limit}, [mounts] max_read needs {wanted}",
                "the kernel asks for smaller reads than configured, which costs throughput",
                run(f"sysctl -w fs.fuse.max_pages_limit={wanted}"),
                Change(_SYSCTL_FILE, f"fs.fuse.max_pages_limit = {wanted}"),
            )
        ]
    return [ok(PART, "fuse-max-pages", f"fs.fuse.max_pages_limit is {limit}")]


def _capability(facts: KernelFacts) -> Finding:
    who = f"the daemon (pid {facts.daemon})" if facts.daemon else "this user"
    if facts.capabilities is None:
        return unknown(PART, "cap-sys-admin", f"capabilities of {who} cannot be read")
    if facts.capabilities >> _CAP_SYS_ADMIN & 1:
        return ok(PART, "cap-sys-admin", f"{who} has CAP_SYS_ADMIN")
    if facts.daemon is None:
        return unknown(
            PART,
            "cap-sys-admin",
            f"{who} lacks CAP_SYS_ADMIN, so mounts are not tried; run as root",
        )
    return error(
        PART,
        "cap-sys-admin",
        f"{who} lacks CAP_SYS_ADMIN",
        "it can neither mount models nor let the kernel read their files by itself",
        Change(
            "/etc/systemd/system/modelpack-snapshotter.service",
            "# CAP_SYS_ADMIN must be in CapabilityBoundingSet=; in a container: privileged",
        ),
    )


def _files(facts: KernelFacts) -> Finding:
    who = "the daemon" if facts.daemon else "this shell"
    if facts.open_files is None:
        return unknown(PART, "open-files", f"the limits of {who} cannot be read")
    if facts.open_files >= _FILES or facts.daemon is None:
        return ok(PART, "open-files", f"{who} may open {facts.open_files} files")
    return warning(
        PART,
        "open-files",
        f"{who} may open {facts.open_files} files only",
        "each blob in use holds one, and a model has up to thousands",
        Change(
            "/etc/systemd/system/modelpack-snapshotter.service", "[Service]\nLimitNOFILE=1048576"
        ),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
