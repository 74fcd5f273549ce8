"""Where containerd and the daemon meet: the paths and ports both configurations name."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from integration.harness.machine import Machine


def architecture() -> str:
    """This machine's, as container images name it."""
    machine = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@dataclass(frozen=True)
class Places:
    """What stands for the default paths and ports of the samples in config/containerd/."""

    root: Path
    state: Path
    certs: Path
    docker_certs: Path
    containerd: Path
    mirror: str
    """host:port"""

    @classmethod
    def of(cls, machine: Machine) -> Places:
        return cls(
            root=machine.directory("snapshotter/root"),
            state=machine.directory("snapshotter/state"),
            certs=machine.directory("certs.d"),
            docker_certs=machine.directory("docker-certs.d"),
            containerd=machine.directory("containerd") / "containerd.sock",
            mirror=f"127.0.0.1:{machine.port()}",
        )

    @property
    def exchanged(self) -> dict[str, str]:
        """Default place -> ours."""
        return {
            "/var/lib/modelpack-snapshotter": str(self.root),
            "/run/modelpack-snapshotter": str(self.state),
            "/etc/containerd/certs.d": str(self.certs),
            "/etc/docker/certs.d": str(self.docker_certs),
            "/run/containerd/containerd.sock": str(self.containerd),
            "127.0.0.1:7670": self.mirror,
            "linux/amd64": f"linux/{architecture()}",
        }
