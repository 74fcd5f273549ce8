"""dockerd with everything of its own, on a containerd of the harness, and its client."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from integration.harness.containerd import TOOLS, Containerd
from integration.harness.processes import Process, accepts

NAMESPACE = "moby"
"""containerd's namespace for everything Docker does."""

_SOCKET = Path("/run/docker.sock")  # the default: /run is the machine's own
# dockerd must not touch this machine's firewall, bridges and sysctls.
_KEEP_APART = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none")


class Docker:
    """A running dockerd whose images are containerd's. Its containers have no network.

    The machine must have an /etc of its own, see :mod:`integration.harness.etc`: dockerd
    reads hosts.toml files below /etc/docker and nowhere else.
    """

    def __init__(
        self, containerd: Containerd, configuration: Mapping[str, Any] | None = None
    ) -> None:
        """Start it, and return when it answers.

        ``configuration`` becomes its daemon.json; without, the one that is there is used.
        """
        self.containerd = containerd
        machine = containerd.machine
        self.configuration = machine.seen(Path("/etc/docker/daemon.json"))
        if configuration is not None:
            self.configuration.write_text(json.dumps(configuration))
        directory = machine.directory("docker")
        self._socket = machine.seen(_SOCKET)
        self._argv = [
            *(program("dockerd"), *_KEEP_APART, "--userland-proxy=false"),
            *("--data-root", str(directory / "root"), "--exec-root", str(directory / "exec")),
            *("--pidfile", str(directory / "docker.pid"), "--host", f"unix://{_SOCKET}"),
            *("--containerd", str(containerd.address), "--cgroup-parent", f"/{machine.cgroup}"),
            *("--exec-opt", "native.cgroupdriver=cgroupfs"),
        ]
        client = machine.directory("docker/client")
        plugins = {"cliPluginsExtraDirs": [str(Path(program("docker-buildx")).parent)]}
        (client / "config.json").write_text(json.dumps(plugins))
        self.environment = {
            **containerd.environment,
            "PATH": f"{Path(program('docker')).parent}:{containerd.environment['PATH']}",
            "DOCKER_HOST": f"unix://{_SOCKET}",
            "DOCKER_CONFIG": str(client),
        }
        self.start()

    def start(self) -> None:
        self.process: Process = self.containerd.machine.start(
            self._argv, log="dockerd.log", environment=self.environment
        )
        try:
            self.process.wait_until(lambda: accepts(self._socket), "an answer on its socket")
            self("version")
        except BaseException:
            self.process.kill()
            raise

    def __call__(self, *arguments: str, seconds: float = 120) -> str:
        """Run ``docker``; what it printed. Raises :class:`CommandError`."""
        return self.containerd.machine.run(
            ["docker", *arguments], environment=self.environment, seconds=seconds
        ).stdout.strip()

    def stop(self) -> None:
        """End dockerd, and with it the containers, as a node's shutdown does."""
        self.process.stop(seconds=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def program(name: str) -> str:
    """The unpacked one; else that on PATH."""
    for place in (
        *("docker/usr/sbin", "docker/usr/bin", "docker-cli/usr/bin"),
        "docker-buildx/usr/libexec/docker/cli-plugins",
    ):
        unpacked = TOOLS / place / name
        if os.access(unpacked, os.X_OK):
            return str(unpacked)
    on_path = shutil.which(name)
    if on_path is None:
        raise FileNotFoundError(f"no {name}: run script/setup")
    return on_path
