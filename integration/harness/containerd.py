"""containerd, one of the releases in .tools/, with root, state and sockets of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from integration.harness.configuration import render
from integration.harness.machine import REPOSITORY, CommandError, Machine
from integration.harness.places import Places
from integration.harness.processes import accepts
from integration.harness.rootfs import ROOTFS_IMAGE, write_rootfs
from integration.harness.runc import RUNC

TOOLS = REPOSITORY / ".tools"
# On a busy machine a shim may need longer than the few seconds after which containerd takes it
# for dead, or says that it does not know how its task is.
_PATIENCE = {
    "timeouts": {
        f"io.containerd.timeout.{what}": "60s"
        for what in ("shim.load", "shim.cleanup", "task.state")
    }
}


@dataclass(frozen=True)
class Release:
    """An unpacked containerd."""

    version: str
    """As in config/containerd/: ``"1.6"``, ``"1.7"`` or ``"2.1"`` (that and later)."""
    programs: Path

    def __str__(self) -> str:
        return self.version

    @property
    def has_image_volumes(self) -> bool:
        """Whether CRI mounts images as volumes and ``layer_types`` is understood."""
        return self.version == "2.1"

    def exact(self) -> str:
        """What containerd says of itself, for instance ``2.1.9``."""
        said = subprocess.run(
            [self.programs / "containerd", "--version"], capture_output=True, text=True, check=True
        ).stdout
        match = re.search(r"\d+\.\d+\.\d+", said)
        return match[0] if match else said.strip()


def releases() -> list[Release]:
    """Those that script/setup unpacked, the newest first; else the one on PATH."""
    found = [
        Release(version, TOOLS / f"containerd-{version}" / "usr" / "bin")
        for version in ("2.1", "1.7", "1.6")
        if (TOOLS / f"containerd-{version}" / "usr" / "bin" / "containerd").exists()
    ]
    on_path = shutil.which("containerd")
    if on_path is not None and not found:
        programs = Path(on_path).parent
        exact = tuple(int(part) for part in Release("", programs).exact().split(".")[:2])
        found.append(
            Release("2.1" if exact >= (2, 1) else "1.7" if exact >= (1, 7) else "1.6", programs)
        )
    return found


class Containerd:
    """A running containerd, configured by the sample of its version, and its ``ctr``."""

    def __init__(
        self,
        machine: Machine,
        release: Release,
        places: Places,
        *,
        additions: Mapping[str, Any] | None = None,
        runc: Path | None = None,
    ) -> None:
        """Start it, and return when it answers.

        The daemon that ``places`` names may start later. ``additions`` is configuration
        beyond the sample, such as another default snapshotter. ``runc`` is one of
        :func:`harness.runc.runcs`, by default the machine's own.
        """
        self.machine = machine
        self.release = release
        self.places = places
        self.address = places.containerd
        self.environment = {
            **os.environ,
            "PATH": f"{(runc or RUNC).parent}:{release.programs}:{os.environ['PATH']}",
            "CONTAINERD_ADDRESS": str(self.address),
            "TMPDIR": str(machine.directory("tmp")),
        }
        directory = machine.directory("containerd")
        self.configuration = directory / "config.toml"
        self.configuration.write_text(
            render(
                f"config-{release.version}.toml",
                places,
                [_keep_apart(release, directory), _PATIENCE, additions or {}],
            )
        )
        self.start()

    def start(self) -> None:
        self.process = self.machine.start(
            [str(self.release.programs / "containerd"), "--config", str(self.configuration)],
            log="containerd.log",
            environment=self.environment,
        )
        try:
            self.process.wait_until(self._answers, "an answer on its socket")
        except BaseException:
            self.process.kill()
            raise

    def _answers(self) -> bool:
        if not accepts(self.address):
            return False
        try:
            return "Server" in self.ctr("version")
        except CommandError:
            return False

    def ctr(self, *arguments: str, namespace: str = "default", seconds: float = 300) -> str:
        """Run ``ctr``; what it printed. Raises :class:`CommandError`."""
        return self.machine.run(
            ["ctr", "--namespace", namespace, *arguments],
            environment=self.environment,
            seconds=seconds,
        ).stdout

    def wait_for_snapshotter(self) -> None:
        """Until its connection to a daemon that was started anew is there: for some seconds after
        one was refused it tries none."""
        self.process.wait_until(self._reaches_snapshotter, "containerd's connection to the daemon")

    def _reaches_snapshotter(self) -> bool:
        try:
            return "KIND" in self.ctr("snapshots", "--snapshotter", "modelpack", "ls")
        except CommandError:
            return False

    def import_rootfs(self, *, namespace: str = "default") -> None:
        """Make the image for containers known, as :data:`ROOTFS_IMAGE`."""
        archive = self.machine.root / "rootfs.tar"
        if not archive.exists():
            write_rootfs(archive)
        self.ctr("images", "import", str(archive), namespace=namespace)

    def plugins(self) -> dict[str, str]:
        """Plugin, such as ``io.containerd.grpc.v1.cri``, and how it loaded, such as ``ok``."""
        rows = [line.split() for line in self.ctr("plugins", "ls").splitlines()[1:]]
        return {f"{row[0]}.{row[1]}": row[-1] for row in rows if row}

    def stop(self) -> None:
        """End containerd. Shims and containers go on, as they do on a node."""
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _keep_apart(release: Release, directory: Path) -> dict[str, Any]:
    """What keeps this containerd from the machine's own."""
    runtime: dict[str, Any] = {
        "restrict_oom_score_adj": True,  # the machine may lack CAP_SYS_RESOURCE
        "cni": {"conf_dir": str(directory / "cni"), "bin_dir": str(directory / "cni")},
        "cdi_spec_dirs": [str(directory / "cdi")],
    }
    plugins: dict[str, Any] = {
        "io.containerd.internal.v1.opt": {"path": str(directory / "opt")},
    }
    if release.version == "2.1":
        plugins["io.containerd.cri.v1.runtime"] = runtime
        plugins["io.containerd.cri.v1.images"] = {"pinned_images": {"sandbox": ROOTFS_IMAGE}}
    else:
        plugins["io.containerd.grpc.v1.cri"] = runtime | {"sandbox_image": ROOTFS_IMAGE}
    return {
        "root": str(directory / "root"),
        "state": str(directory / "state"),
        "grpc": {"address": str(directory / "containerd.sock")},
        "plugins": plugins,
    }
