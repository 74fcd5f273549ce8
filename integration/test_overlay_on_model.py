"""Overlayfs on top of a model, as below a container whose root is the stub image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from integration.harness.container import Container
from integration.harness.containerd import Containerd, releases
from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command

FILE = "model-00001-of-00004.safetensors"


@dataclass
class Overlaid:
    """A container that has a writable root over a model at /models."""

    snapshotter: Snapshotter
    containerd: Containerd
    container: Container
    model: PushedModel

    def become_verified(self) -> None:
        self.container.ask("cat /models/* > /dev/null")
        self.snapshotter.wait_until_verified()

    def sums(self) -> dict[str, str]:
        return read_sums(self.container.ask(sums_command("/models")), "/models")


def committed(containerd: Containerd) -> str:
    listed = containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls").splitlines()[1:]
    (name,) = [line.split()[0] for line in listed if line.split()[-1] == "Committed"]
    return name


@contextmanager
def overlaid(
    machine: Machine, places: Places, registry: Registry, *, keeper: bool = True
) -> Iterator[Overlaid]:
    additions = {"fetch": {"background": False}, "keeper": {"enabled": keeper}}
    with (
        Snapshotter(machine, places, additions=additions) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        containerd.import_rootfs()
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "stub", model.tag)
        # The image unpacked, then a container's root on it, mounted as containerd says.
        view = str(machine.directory("view"))
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, view)
        machine.run(["umount", view])
        target = str(machine.directory("root"))
        mount = containerd.ctr(
            *("snapshots", "--snapshotter", "modelpack", "prepare", "--target", target),
            *("writable", committed(containerd)),
        )
        assert "overlay" in mount
        machine.run(["sh", "-c", mount])
        bind = f"type=bind,src={target},dst=/models,options=rbind:rw"
        try:
            with Container(containerd, "reader", mounts=[bind]) as container:
                yield Overlaid(snapshotter, containerd, container, model)
        finally:
            machine.run(["umount", target])


@pytest.mark.parametrize("keeper", [True, False])
def test_a_file_that_was_open_while_it_became_verified_is_opened_again(
    machine: Machine, places: Places, registry: Registry, keeper: bool
) -> None:
    with overlaid(machine, places, registry, keeper=keeper) as over:
        over.container.ask(f"exec 7< /models/{FILE}; head -c 1 <&7 > /dev/null")
        over.become_verified()
        assert over.sums() == over.model.sums
        over.container.ask("exec 7<&-")
        assert over.sums() == over.model.sums


def test_nor_does_the_next_daemon_give_such_a_file_another_identity(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with overlaid(machine, places, registry) as over:
        over.container.ask(f"exec 7< /models/{FILE}; head -c 1 <&7 > /dev/null")
        over.become_verified()
        for _ in range(2):
            over.snapshotter.process.kill()
            over.snapshotter.start()
            assert over.sums() == over.model.sums
        assert over.container.ask("sha256sum <&7 | wc -l") == "1"


def test_what_a_container_writes_over_a_model_is_its_own(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with overlaid(machine, places, registry) as over:
        over.container.ask("echo mine > /models/config.json")
        over.become_verified()
        over.snapshotter.process.kill()
        over.snapshotter.start()
        assert over.container.ask("cat /models/config.json") == "mine"
        assert over.model.sums.items() - over.sums().items() == {
            ("config.json", over.model.sums["config.json"])
        }
