"""Models in archives, through containerd; and the daemon killed while it unpacks one."""

from __future__ import annotations

import hashlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from integration.harness.configuration import write_hosts
from integration.harness.container import Container
from integration.harness.containerd import Containerd
from integration.harness.machine import Machine
from integration.harness.packed import FORMS, Packed, push_packed
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import read_sums, sums_command

WEIGHTS = ("/models/weights/model-1.safetensors", "/models/weights/model-2.safetensors")


@pytest.fixture
def containerd(newest_containerd: Containerd) -> Containerd:
    newest_containerd.import_rootfs()
    return newest_containerd


def pushed(snapshotter: Snapshotter, registry: Registry, form: str, size: int) -> Packed:
    packed = push_packed(registry.host, form, size=size)
    write_hosts(snapshotter.places, registry.host)
    return packed


def show(containerd: Containerd, machine: Machine, snapshotter: Snapshotter, model: Packed) -> str:
    snapshotter.modelpack("pull", "--as", "stub", model.reference)
    target = str(machine.directory("mounted"))
    containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.reference, target)
    return f"type=bind,src={target},dst=/models,options=rbind:ro"


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
    model = pushed(snapshotter, registry, form, 24 << 20)
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
    machine: Machine,
    containerd: Containerd,
    snapshotter: Snapshotter,
    registry: Registry,
    form: str,
) -> None:
    model = pushed(snapshotter, registry, form, 96 << 20)
    mount = show(containerd, machine, snapshotter, model)
    with (
        Container(containerd, "in-order", mounts=[mount]) as reader,
        Container(containerd, "last-first", mounts=[mount]) as other,
        ThreadPoolExecutor() as threads,
    ):
        # A daemon that was killed has no unpacked bytes it may trust: all of it is unpacked
        # again, under a reader that is in the middle of it.
        snapshotter.process.kill()
        snapshotter.start()
        first = threads.submit(reader.ask, f"cat {' '.join(WEIGHTS)} | sha256sum")
        second = threads.submit(other.ask, f"cat {' '.join(reversed(WEIGHTS))} | sha256sum")
        killed = unfinished = 0
        while not (first.done() and second.done()):
            time.sleep(0.4)
            (shown,) = snapshotter.status()["models"] or [{"unpacked_bytes": 0}]
            unfinished += 0 < shown["unpacked_bytes"] < 96 << 20
            if killed < 6:
                snapshotter.process.signal(signal.SIGKILL)
                snapshotter.process.wait(30)
                snapshotter.start()
                killed += 1
        weights = [model.files[path.removeprefix("/models/")] for path in WEIGHTS]
        assert first.result().split()[0] == hashlib.sha256(b"".join(weights)).hexdigest()
        assert second.result().split()[0] == hashlib.sha256(b"".join(weights[::-1])).hexdigest()
        print(f"\n{killed} SIGKILLs, {unfinished} of them seen while it was being unpacked")
        assert killed
        assert read_sums(reader.ask(sums_command("/models")), "/models") == sums(model)
