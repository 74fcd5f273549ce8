"""What the demo needs before anything is measured: model, registry, containerd, daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console

from integration.demo.reading import sums_command
from integration.harness.configuration import write_hosts
from integration.harness.containerd import Containerd, releases
from integration.harness.images import FileLayer, Image
from integration.harness.machine import Machine
from integration.harness.model import write_model
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from snapshotter.units import format_size

_COPIES = 6
"""Of the model at the same time: source, registry twice, cache, containerd's content, snapshot."""


class DemoError(Exception):
    """The demo cannot go on here; the message says why and what to do."""


class Stage:
    """Everything running, and the model in the registry: as a model and as an ordinary image."""

    def __init__(
        self, resources: ExitStack, console: Console, *, size: int, directory: Path | None
    ) -> None:
        """Set it up; ``resources`` takes it down. ``size`` counts unless ``directory`` is given."""
        self.console = console
        check(size, directory)
        self.machine = resources.enter_context(Machine())
        self.source = directory or self._made(size)
        self.size = _size_of(self.source)
        with self._doing("sha256 of the source"):
            self.sums = subprocess.run(
                ["sh", "-c", sums_command(str(self.source))],
                capture_output=True,
                text=True,
                check=True,
            ).stdout

        registry = resources.enter_context(Registry(self.machine))
        self.registry = self.machine.root / "registry"
        self.model = f"{registry.host}/models/demo:1"
        self.image = f"{registry.host}/images/demo:1"
        places = Places.of(self.machine)
        write_hosts(places, registry.host)
        self.certs = places.certs
        self.snapshotter = resources.enter_context(Snapshotter(self.machine, places))
        with self._doing(f"modelpack build, of {format_size(self.size)}"):
            self.snapshotter.modelpack("build", str(self.source), "-t", self.model)
        with self._doing("modelpack push, to a registry on loopback"):
            self.snapshotter.modelpack("push", self.model)
        self.pinned = _pinned(registry.host, "models/demo", "1")
        with self._doing("the same files as an ordinary image, a layer each"):
            files = sorted(p for p in self.source.rglob("*") if p.is_file())
            layers = [FileLayer(str(path.relative_to(self.source)), path) for path in files]
            Image.of(layers).push(registry.host, "images/demo", "1")

        self.containerd = resources.enter_context(Containerd(self.machine, releases()[0], places))
        self.containerd.import_rootfs()
        console.print(f"containerd {self.containerd.release.exact()} runs, so does the daemon")
        if not self.containerd.release.has_image_volumes:
            console.print(
                "[yellow]before 2.1 containerd has no image volumes: they are left out[/]"
            )

    def _made(self, size: int) -> Path:
        source = self.machine.root / "model"
        with self._doing(f"a model of {format_size(size)}: four safetensors shards"):
            write_model(source, size)
        return source

    @contextmanager
    def _doing(self, what: str) -> Iterator[None]:
        with self.console.status(f"{what} ..."):
            yield
        self.console.print(f"[dim]made[/]  {what}")


def check(size: int, directory: Path | None) -> None:
    """Raises :class:`DemoError` for what would fail later, before anything is made."""
    if os.geteuid() != 0:
        raise DemoError("containers and mounts need root: run it as root")
    if not Path("/dev/fuse").exists():
        raise DemoError("/dev/fuse is missing: run 'modprobe fuse'")
    if not releases():
        raise DemoError("no containerd in .tools and none on PATH: run script/setup")
    if directory is not None:
        size = _size_of(directory)
        if size == 0:
            raise DemoError(f"{directory} holds no bytes: name a directory with a model's files")
    needed = (_COPIES if directory is None else _COPIES - 1) * size + (512 << 20)
    free = shutil.disk_usage("/var/tmp").free
    if free < needed:
        raise DemoError(
            f"/var/tmp has {format_size(free)} free, a model of {format_size(size)} needs "
            f"{format_size(needed)} while the demo runs: make room or choose a smaller --size"
        )


def start_equally(registry: Path, size: int) -> None:
    """Bring the machine into the same state before each run.

    What is dirty is written and the page cache dropped. The registry's files are read
    again, since on a node it is another machine's disk that they lie on. And memory
    for the run is touched once and given back: on a virtual machine the first use of a page
    costs its host a fault, which would count against whoever runs first.
    """
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
    buffer = bytearray(4 << 20)
    for path in registry.glob("data/docker/registry/v2/blobs/*/*/*/data"):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    touched = min(_TOUCHED * size, _available_memory() // 2)
    subprocess.run([sys.executable, "-c", _TOUCH, str(touched)], check=True)


_TOUCHED = 3
"""Times the model's size: cache, page cache of the mount, and some."""
_TOUCH = """
import mmap, sys
mmap.mmap(-1, int(sys.argv[1]), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)
"""


def _available_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _pinned(registry: str, repository: str, tag: str) -> str:
    """The reference by digest of what the registry holds under the tag."""
    answer = httpx.head(
        f"http://{registry}/v2/{repository}/manifests/{tag}",
        headers={"accept": "application/vnd.oci.image.manifest.v1+json"},
        timeout=60,
    ).raise_for_status()
    return f"{registry}/{repository}@{answer.headers['docker-content-digest']}"


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
