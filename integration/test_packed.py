"""Models in archives, through containerd; and the daemon killed while it unpacks one."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from integration.harness.configuration import write_hosts
from integration.harness.container import Container
from integration.harness.containerd import Containerd, releases
from integration.harness.machine import Machine
from integration.harness.packed import FORMS, Packed, push_packed
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import read_sums, sums_command

LOST = (1 << 20, 2 << 20, 4 << 20)
"""Bytes that the daemon has unpacked each time when it is killed."""
WEIGHTS = ("/models/weights/model-1.safetensors", "/models/weights/model-2.safetensors")


@pytest.fixture
def containerd(newest_containerd: Containerd) -> Containerd:
    newest_containerd.import_rootfs()
    return newest_containerd


def pushed(snapshotter: Snapshotter, registry: Registry, form: str) -> Packed:
    packed = push_packed(registry.host, form)
    write_hosts(snapshotter.places, registry.host)
    return packed


def show(containerd: Containerd, machine: Machine, snapshotter: Snapshotter, model: Packed) -> str:
    snapshotter.modelpack("pull", "--as", "stub", model.reference)
    target = str(machine.directory("mounted"))
    containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.reference, target)
    return f"type=bind,src={target},dst=/models,options=rbind:ro"


def has_unpacked(snapshotter: Snapshotter, least: int) -> bool:
    unpacked: int = sum(model["unpacked_bytes"] for model in snapshotter.status()["models"])
    return unpacked >= least


def sums(model: Packed) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in model.files.items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_container_reads_a_model_in_archives(
    machine: Machine,
    containerd: Containerd,
    snapshotter: Snapshotter,
    registry: Registry,
    form: str,
) -> None:
    model = pushed(snapshotter, registry, form)
    mount = show(containerd, machine, snapshotter, model)
    if form in ("tar", "tar+zstd-seekable"):
        assert snapshotter.status()["fetched_bytes"] < model.size // 3  # the names, no more
    with Container(containerd, "reader", mounts=[mount]) as container:
        end = container.ask(f"tail -c 9 {WEIGHTS[1]} | sha256sum").split()[0]
        expected = model.files["weights/model-2.safetensors"][-9:]
        assert end == hashlib.sha256(expected).hexdigest()
        assert read_sums(container.ask(sums_command("/models")), "/models") == sums(model)
        assert "Read-only file system" in container.ask("touch /models/x || true")
    assert snapshotter.status()["fetched_bytes"] <= model.size


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_daemon_that_is_killed_while_it_unpacks_gives_right_bytes_after(
    machine: Machine, places: Places, registry: Registry, form: str
) -> None:
    size = 96 << 20
    # While it is killed there is more to come than it can unpack in the meantime.
    slowly = {"registry": {"limits": {"_default": {"bytes_per_second": "2MiB"}}}}
    with (
        Snapshotter(machine, places, additions=slowly) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        containerd.import_rootfs()
        model = push_packed(registry.host, form, size=size, apart=True)
        write_hosts(places, registry.host)
        mount = show(containerd, machine, snapshotter, model)
        with (
            Container(containerd, "in-order", mounts=[mount]) as reader,
            Container(containerd, "last-first", mounts=[mount]) as other,
            ThreadPoolExecutor() as threads,
        ):
            first = threads.submit(reader.ask, f"cat {' '.join(WEIGHTS)} | sha256sum")
            second = threads.submit(other.ask, f"cat {' '.join(reversed(WEIGHTS))} | sha256sum")
            for some in LOST:
                # All that is unpacked by now is lost, under readers that are in the middle of it.
                enough = partial(has_unpacked, snapshotter, some)
                snapshotter.process.wait_until(enough, "something to lose")
                assert not has_unpacked(snapshotter, size)
                snapshotter.process.kill()
                if some == LOST[-1]:
                    text = snapshotter.configuration.read_text()
                    snapshotter.configuration.write_text(text.replace('"2MiB"', '"0B"'))
                snapshotter.start()
            weights = [model.files[path.removeprefix("/models/")] for path in WEIGHTS]
            assert first.result().split()[0] == hashlib.sha256(b"".join(weights)).hexdigest()
            assert second.result().split()[0] == hashlib.sha256(b"".join(weights[::-1])).hexdigest()
            assert read_sums(reader.ask(sums_command("/models")), "/models") == sums(model)
