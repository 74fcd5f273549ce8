"""Kubelet, where there is one: does it ask the image service that passes pull secrets on?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.finding import Change, Finding, error, ok, warning

PART = "kubelet"
CONFIG = Path("/var/lib/kubelet/config.yaml")
_DAEMON_CONFIG = "/etc/modelpack-snapshotter/config.toml"
_LINE = re.compile(r"""(?m)^imageServiceEndpoint:\s*["']?([^"'\s#]+)""")
_FLAG = re.compile(r"--image-service-endpoint[=\0]([^\0]+)")


@dataclass(frozen=True, slots=True)
class KubeletFacts:
    there: bool
    """Whether this node has a kubelet."""
    endpoint: str = ""
    """Its image service; empty: that of the container runtime."""


def gather(config: Path = CONFIG, processes: Path = Path("/proc")) -> KubeletFacts:
    commands = _commands(processes)
    flags = [found[1] for command in commands if (found := _FLAG.search(command))]
    try:
        line = _LINE.search(config.read_text(errors="replace"))
    except OSError:
        return KubeletFacts(bool(commands), flags[0] if flags else "")
    endpoint = flags[0] if flags else line[1] if line else ""
    return KubeletFacts(True, endpoint)


def judge(facts: KubeletFacts, ours: Path, *, enabled: bool) -> list[Finding]:
    """``ours``: the socket of the image service proxy; ``enabled``: whether it is served."""
    if not facts.there:
        return []
    asks_us = facts.endpoint.removeprefix("unix://") == str(ours)
    if asks_us and not enabled:
        return [
            error(
                PART,
                "image-service",
                f"kubelet's image service is {facts.endpoint}, which the daemon does not serve",
                "kubelet can pull no image at all",
                Change(_DAEMON_CONFIG, "[cri]\nenabled = true"),
            )
        ]
    if enabled and not asks_us:
        asked = facts.endpoint or "containerd's own"
        return [
            warning(
                PART,
                "image-service",
                f"the image service for kubelet is served at {ours}, and kubelet asks {asked}",
                "imagePullSecrets of pods do not reach the daemon",
                Change(str(CONFIG), f'imageServiceEndpoint: "unix://{ours}"'),
            )
        ]
    return [ok(PART, "image-service", f"kubelet asks {facts.endpoint}")] if asks_us else []


def _commands(processes: Path) -> Sequence[str]:
    found = []
    for process in processes.glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "kubelet":
                found.append((process / "cmdline").read_text(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return found
