"""nerdctl's image mounts (``nerdctl run --mount type=image``), by the calls it makes.

No Debian suite and no registry of packages has nerdctl, so the program itself is run only where
there is one on PATH (``test_client_pages.py``). Everywhere else this holds what its
``setupImageMount`` (pkg/cmd/container/run_mount.go, newer than 2.3.4) relies on, with a real
containerd and a real runc: a view of the image under a name of its own that a label keeps from
the garbage collection, whose mount goes into the container's OCI specification as it is; for
``image-subpath`` the view mounted on the host, and a directory of it bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from integration.harness.container import Container, ContainerError
from integration.harness.containerd import Containerd
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshots import Snapshots
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command
from integration.test_cri_pods import eventually
from integration.test_ctr import mount_image
from integration.test_overlay_on_model import committed
from proto.containerd.types.mount_pb2 import Mount

GC_ROOT = {"containerd.io/gc.root": "2026-07-12T10:00:00Z"}


@dataclass
class Nerdctl:
    """What nerdctl does with containerd for an image mount, and nothing of its own."""

    containerd: Containerd
    snapshots: Snapshots
    chain: str

    def view(self, id: str) -> Sequence[Mount]:
        return self.snapshots.view(f"{id}-image-mount", self.chain, GC_ROOT)

    def run(self, id: str, mount: Mount) -> Container:
        """A container with the snapshotter's mount as nerdctl hands it to the OCI runtime."""
        options = [*mount.options, *(["ro"] if "ro" not in mount.options else [])]
        given = f"type={mount.type},src={mount.source},dst=/models,options={':'.join(options)}"
        return Container(self.containerd, id, snapshotter="modelpack", mounts=[given])

    def forget(self, id: str) -> None:
        self.snapshots.remove(f"{id}-image-mount")

    def collect(self) -> None:
        """containerd collects what nothing refers to when something is removed and waited for."""
        self.containerd.ctr("leases", "create", "--id", "nothing")
        self.containerd.ctr("leases", "rm", "--sync", "nothing")


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry) -> PushedModel:
    part = push_model(snapshotter, registry).source / "part"
    part.mkdir()
    (part / "adapter.json").write_text("{}")
    return push_model(snapshotter, registry)


@pytest.fixture(params=["transfer", "client"])
def nerdctl(
    request: pytest.FixtureRequest,
    newest_containerd: Containerd,
    places: Places,
    model: PushedModel,
) -> Iterator[Nerdctl]:
    """With the model pulled: by the transfer service, as since 2.2, or by the client itself."""
    local = ["--local"] if request.param == "client" else []
    newest_containerd.ctr(
        *("images", "pull", *local, "--hosts-dir", str(places.certs)),
        *("--snapshotter", "modelpack", model.tag),
    )
    chain = committed(newest_containerd)
    newest_containerd.import_rootfs()
    address = places.containerd
    with Snapshots(address, snapshotter="modelpack", namespace="default") as snapshots:
        yield Nerdctl(newest_containerd, snapshots, chain)


def test_a_container_has_the_model_and_lets_go_of_it(
    nerdctl: Nerdctl, snapshotter: Snapshotter, model: PushedModel
) -> None:
    (mount,) = nerdctl.view("one")
    assert mount.type == "bind"
    nerdctl.collect()
    with nerdctl.run("one", mount) as container:
        assert read_sums(container.ask(sums_command("/models")), "/models") == model.sums
        assert "Read-only file system" in container.ask("touch /models/x || true")
        # Two places for one image, as docker and nerdctl allow.
        (again,) = nerdctl.view("two")
        assert again.source == mount.source
        nerdctl.containerd.ctr("images", "rm", "--sync", model.tag)
        assert read_sums(container.ask(sums_command("/models")), "/models") == model.sums
    nerdctl.forget("two")
    nerdctl.collect()
    assert len(snapshotter.status()["models"]) == 1
    nerdctl.forget("one")
    eventually(lambda: snapshotter.status()["models"] == [], "the model is unmounted")


def test_a_directory_of_the_model_is_mounted(nerdctl: Nerdctl) -> None:
    machine = nerdctl.containerd.machine
    view = nerdctl.view("one")
    target = machine.directory("image-mounts/one")
    (mount,) = view
    machine.run(["mount", "-o", ",".join(mount.options), mount.source, str(target)])
    part = Mount(type="bind", source=str(target / "part"), options=["rbind", "ro"])
    with nerdctl.run("one", part) as container:
        assert container.ask("ls /models") == "adapter.json"
    machine.run(["umount", str(target)])
    nerdctl.forget("one")


def test_a_container_that_is_started_again_has_the_model_or_fails(
    nerdctl: Nerdctl,
    snapshotter: Snapshotter,
    places: Places,
    registry: Registry,
    model: PushedModel,
) -> None:
    """`nerdctl start` uses the specification of the first start. After a reboot nothing is
    mounted where it says, until somebody mounts that model; it is no empty directory."""
    machine = nerdctl.containerd.machine
    (mount,) = nerdctl.view("one")
    with nerdctl.run("one", mount) as container:
        assert container.ask("cat /models/config.json")
    snapshotter.stop()
    nerdctl.containerd.stop()
    machine.reboot(places.state, machine.root / "containerd" / "state")
    registry.start()
    snapshotter.start()
    nerdctl.containerd.start()
    with pytest.raises(ContainerError, match="no such file or directory"):
        nerdctl.run("one", mount)
    mount_image(nerdctl.containerd, model.tag, str(machine.directory("mounted")))
    with nerdctl.run("one", mount) as container:
        assert read_sums(container.ask(sums_command("/models")), "/models") == model.sums
    assert Path(mount.source).is_relative_to(places.state)
