"""This machine's platform in OCI's names."""

from __future__ import annotations

import platform

from snapshotter.artifact.descriptor import Platform

_GOARCH = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le"}


def host_platform() -> Platform:
    machine = platform.machine()
    return Platform("linux", _GOARCH.get(machine, machine))
