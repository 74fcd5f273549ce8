"""The keeper: is there one, and will it be there when the daemon is not?"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.finding import Change, Finding, error, ok, run, unknown, warning
from snapshotter.doctor.samples import DAEMON_CONFIG
from snapshotter.keeper.errors import KeeperError
from snapshotter.keeper.link import Link, NoKeeper

PART = "keeper"
_UNIT = "modelpack-keeper.service"


@dataclass(frozen=True, slots=True)
class KeeperFacts:
    """The keeper, as seen from outside."""

    enabled: bool
    address: Path
    daemon: bool
    """Whether the daemon runs."""
    pid: int | None = None
    """None: no keeper answers."""
    holds: int = 0
    failure: str = ""
    """Why it is not known whether there is one; empty: it is."""
    hidden: bool = False
    """Whether permissions keep this user from asking."""
    shared_cgroup: str = ""
    """The control group that daemon and keeper are both in; empty: none but the root one, or
    not known."""
    own_namespace: bool = False
    """Whether it is known to have another mount namespace than the daemon."""


def gather(enabled: bool, address: Path, *, runs: bool, daemon: int | None) -> KeeperFacts:
    """``runs``: whether the daemon does; ``daemon``: its pid, None when it is not known."""
    if not enabled:
        return KeeperFacts(enabled, address, runs)
    if not os.access(address.parent, os.X_OK) or (
        address.exists() and not os.access(address, os.W_OK)
    ):
        return KeeperFacts(enabled, address, runs, hidden=True)
    try:
        link = Link(address)
    except NoKeeper:
        return KeeperFacts(enabled, address, runs)
    except KeeperError as why:
        return KeeperFacts(enabled, address, runs, failure=str(why))
    try:
        pid, holds = link.pid, link.count
    finally:
        link.close()
    return KeeperFacts(
        enabled,
        address,
        runs,
        pid,
        holds,
        *_compared(pid, daemon),
    )


def judge(facts: KeeperFacts) -> list[Finding]:
    if not facts.enabled:
        return [
            warning(
                PART,
                "keeper-runs",
                "there is to be no keeper",
                "mounts end with the daemon: to restart or upgrade it breaks every container "
                "that has a model",
                Change(DAEMON_CONFIG, "[keeper]\nenabled = true\n"),
            )
        ]
    if facts.hidden:
        return [unknown(PART, "keeper-runs", "only root may ask the keeper")]
    if facts.failure:
        return [
            error(
                PART,
                "keeper-runs",
                facts.failure,
                "a daemon that starts now refuses to, for the keeper may hold mounts",
                run("journalctl -u modelpack-keeper", f"fuser -v {facts.address}"),
            )
        ]
    if facts.pid is None:
        return _absent(facts)
    return _present(facts)


def _absent(facts: KeeperFacts) -> list[Finding]:
    if not facts.daemon:
        return [ok(PART, "keeper-runs", "no keeper runs, and there is nothing that it could hold")]
    return [
        error(
            PART,
            "keeper-runs",
            f"no keeper answers on {facts.address}, and the daemon could not start one",
            "mounts end with the daemon: should it be killed, every container that has a model "
            "gets errors",
            run("systemctl enable --now modelpack-keeper", "journalctl -u modelpack-snapshotter"),
        )
    ]


def _present(facts: KeeperFacts) -> list[Finding]:
    count = f"{facts.holds} mount{'s' * (facts.holds != 1)}"
    if not facts.daemon and facts.holds:
        found = [
            error(
                PART,
                "keeper-runs",
                f"the keeper holds {count} for a daemon that does not run",
                "whoever reads these models waits until it does",
                run("systemctl start modelpack-snapshotter"),
            )
        ]
    else:
        found = [ok(PART, "keeper-runs", f"the keeper, pid {facts.pid}, holds {count}")]
    if facts.shared_cgroup:
        found.append(
            warning(
                PART,
                "keeper-cgroup",
                f"daemon and keeper are both in the control group {facts.shared_cgroup}",
                "what ends that group, a pod's end for instance, ends both, and every container "
                "that has a model gets errors",
                run(f"systemctl enable --now {_UNIT.removesuffix('.service')}"),
            )
        )
    if facts.own_namespace:
        found.append(
            error(
                PART,
                "keeper-namespace",
                "the keeper has a mount namespace of its own",
                "models that are unmounted may stay mounted there, and are served for ever",
                Change(
                    f"/etc/systemd/system/{_UNIT}",
                    "# remove PrivateMounts=, PrivateTmp=, ProtectSystem= and their like",
                ),
            )
        )
    return found


def shared_cgroup(keeper: str, daemon: str) -> str:
    """The group both are in, of what proc_pid_cgroup says of each (cgroups(7)). Pure.

    The most special hierarchy counts: nobody ends the processes of the root group.
    """
    both = set(keeper.splitlines()) & set(daemon.splitlines())
    groups = {line.split(":", 2)[2] for line in both if line.startswith(("0::", "1:name="))}
    return max(groups - {"/"}, default="")


def _compared(keeper: int, daemon: int | None) -> tuple[str, bool]:
    """``shared_cgroup`` and ``own_namespace``."""
    if daemon is None:
        return "", False
    ours, theirs = Path(f"/proc/{daemon}"), Path(f"/proc/{keeper}")
    try:
        if b"keeper" not in (theirs / "cmdline").read_bytes():
            return "", False  # it counts processes otherwise than we do, being in a pod
        group = shared_cgroup((theirs / "cgroup").read_text(), (ours / "cgroup").read_text())
        return group, (theirs / "ns/mnt").readlink() != (ours / "ns/mnt").readlink()
    except OSError:
        return "", False
