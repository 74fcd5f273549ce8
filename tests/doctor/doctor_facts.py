"""Facts of a node with which nothing is wrong, for tests that spoil one thing."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

from snapshotter.config import Config
from snapshotter.doctor.containerd import ContainerdFacts, Plugin
from snapshotter.doctor.effective import Effective, parse
from snapshotter.doctor.finding import Finding, Level
from snapshotter.doctor.rules import judge
from snapshotter.doctor.samples import containerd_toml
from snapshotter.doctor.wanted import Wanted

ROOT = "/var/lib/modelpack-snapshotter"
WANTED = Wanted(
    address="/run/modelpack-snapshotter/snapshotter.sock",
    root=ROOT,
    architecture="amd64",
    pinned="pass",
    mirrored=frozenset({"/etc/containerd/certs.d"}),
)
VERSIONS = {(1, 6): "1.6.20~ds1", (1, 7): "1.7.24", (2, 1): "2.1.9", (2, 3): "v2.3.0"}


def effective(version: tuple[int, int], *, default: bool = False) -> Effective:
    return parse(tomllib.loads(containerd_toml(Config(), version, "amd64", default)))


def good(version: tuple[int, int] = (2, 1), *, default: bool = False) -> ContainerdFacts:
    configured = effective(version, default=default)
    return ContainerdFacts(
        Path("/run/containerd/containerd.sock"),
        version=VERSIONS[version],
        pid=42,
        plugins=[Plugin("io.containerd.snapshotter.v1", "modelpack", "")],
        effective=configured,
        running_handlers=dict(configured.handlers),
        exports_roots={ROOT: True},
    )


def spoilt(version: tuple[int, int] = (2, 1), **changes: Any) -> list[Finding]:
    """Findings when something of the effective configuration is otherwise."""
    facts = good(version, default=True)
    assert facts.effective is not None
    changed = replace(facts.effective, **changes)
    return judge(replace(facts, effective=changed, running_handlers=changed.handlers), WANTED)


def names(findings: list[Finding], *levels: Level) -> set[str]:
    return {finding.name for finding in findings if finding.level in levels}
