"""Does containerd see what the daemon mounts? If not it shows empty directories, in silence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.disk import unescape
from snapshotter.doctor.finding import Change, Finding, error, ok, unknown

PART = "mount namespaces"
_SHARING = re.compile(r"(?:shared|master):(\d+)")


@dataclass(frozen=True, slots=True)
class View:
    """A process's mount namespace."""

    who: str
    namespace: str
    """Its identity: equal for two processes in the same one."""
    mountinfo: str


@dataclass(frozen=True, slots=True)
class NamespaceFacts:
    daemon: View | None
    """None: the process is not known or may not be looked at; so for the others."""
    viewers: tuple[View, ...]
    """Those who must see the daemon's mounts: containerd, dockerd."""
    state: Path
    """Below it the daemon mounts models."""


def gather(
    daemon: int | None, viewers: Sequence[tuple[str, int | None]], state: Path
) -> NamespaceFacts:
    """``viewers``: name and pid of each who must see the mounts."""
    views = (view(who, pid) for who, pid in viewers)
    return NamespaceFacts(
        view("the daemon", daemon), tuple(v for v in views if v is not None), state
    )


def view(who: str, pid: int | None) -> View | None:
    if pid is None:
        return None
    process = Path("/proc") / str(pid)
    try:
        return View(
            who,
            str((process / "ns/mnt").readlink()),
            (process / "mountinfo").read_text(errors="surrogateescape"),
        )
    except OSError:
        return None


def judge(facts: NamespaceFacts) -> list[Finding]:
    daemon = facts.daemon
    if daemon is None or not facts.viewers:
        return [
            unknown(
                PART,
                "mounts-visible",
                "not compared: daemon and containerd must run, and only root may look",
            )
        ]
    return [_sees(viewer, daemon, facts.state) for viewer in facts.viewers]


def _sees(viewer: View, daemon: View, state: Path) -> Finding:
    if viewer.namespace == daemon.namespace:
        return ok(PART, "mounts-visible", f"{viewer.who} and the daemon share a mount namespace")
    there = set(models(viewer.mountinfo, state))
    mounted = models(daemon.mountinfo, state)
    missing = [point for point in mounted if point not in there]
    if missing:
        return _blind(f"{viewer.who} does not see {missing[0]}, which the daemon mounted")
    if mounted or set(peers(daemon.mountinfo, state)) & set(peers(viewer.mountinfo, state)):
        return ok(PART, "mounts-visible", f"{viewer.who} sees what the daemon mounts in {state}")
    return _blind(f"mounts that the daemon makes in {state} do not reach {viewer.who}'s namespace")


def _blind(what: str) -> Finding:
    return error(
        PART,
        "mounts-visible",
        what,
        "models are mounted as empty directories, without an error",
        Change(
            "/etc/systemd/system/modelpack-snapshotter.service",
            "# remove PrivateMounts=, PrivateTmp=, ProtectSystem=, ReadWritePaths= and their like",
        ),
        Change(
            "the daemon's pod, where it runs in one",
            "# mount the state directory with mountPropagation: Bidirectional",
        ),
    )


def mount_points(mountinfo: str) -> list[str]:
    """From proc_pid_mountinfo(5). Pure."""
    return [str(unescape(fields[4])) for fields, _ in _lines(mountinfo)]


def models(mountinfo: str, state: Path) -> list[str]:
    """Mount points of FUSE below ``state``, from proc_pid_mountinfo(5). Pure."""
    found = []
    for fields, fstype in _lines(mountinfo):
        point = unescape(fields[4])
        if fstype.startswith("fuse") and Path(point).is_relative_to(state):
            found.append(point)
    return found


def peers(mountinfo: str, state: Path) -> list[str]:
    """Peer groups of the mount that ``state`` lies on: equal ones hand mounts on. Pure."""
    groups: list[str] = []
    length = -1
    for fields, fstype in _lines(mountinfo):
        point = unescape(fields[4])
        below = state.is_relative_to(point) and not fstype.startswith("fuse")
        if below and len(point) >= length:
            groups, length = _SHARING.findall(" ".join(fields[6:])), len(point)
    return groups


def _lines(mountinfo: str) -> list[tuple[list[str], str]]:
    lines = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) >= 6:
            lines.append((fields, after.split(" ")[0]))
    return lines
