"""The daemon where something is in its way: another daemon, a registry that hangs, a link."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import push_model
from proto.containerd.services.snapshots.v1.snapshots_pb2 import ListSnapshotsRequest
from proto.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry) -> str:
    """A model containerd knows, of which the daemon has nothing yet."""
    tag = push_model(snapshotter, registry).tag
    snapshotter.modelpack("pull", "--as", "stub", tag)
    return tag


def mounted(containerd: Containerd, model: str, name: str) -> Path:
    target = containerd.machine.directory(name)
    containerd.ctr("images", "mount", "--snapshotter", "modelpack", model, str(target))
    return target


def mount_points(machine: Machine) -> list[str]:
    """Where models are mounted in ``machine``; the host's own mounts show there too."""
    lines = machine.run(["cat", "/proc/self/mountinfo"]).stdout.splitlines()
    points = [line.split()[4] for line in lines if " fuse.modelpack " in line]
    return [point for point in points if Path(point).is_relative_to(machine.root)]


def snapshots(snapshotter: Snapshotter) -> list[str]:
    """Their names, as the daemon has them."""
    with grpc.insecure_channel(f"unix:{snapshotter.places.state}/snapshotter.sock") as channel:
        answers = SnapshotsStub(channel).List(ListSnapshotsRequest(), timeout=10)
        return [info.name for answer in answers for info in answer.info]


def test_a_daemon_with_the_state_of_another_leaves_its_mounts_alone(
    snapshotter: Snapshotter, newest_containerd: Containerd, model: str, tmp_path: Path
) -> None:
    mounted(newest_containerd, model, "mounted")
    before = mount_points(snapshotter.machine)
    other = tmp_path / "other.toml"
    other.write_text(
        f'root = "{tmp_path}/root"\nstate = "{snapshotter.places.state}"\n'
        "[mirror]\nenabled = false\n"
    )
    with pytest.raises(CommandError, match=r"snapshotter\.sock is in use"):
        snapshotter.machine.run([str(PROGRAMS / "modelpack-snapshotter"), "--config", str(other)])
    assert mount_points(snapshotter.machine) == before
    assert not (tmp_path / "root" / "cache").exists()


def test_a_registry_that_hangs_does_not_keep_the_daemon_from_stopping(
    snapshotter: Snapshotter, newest_containerd: Containerd, model: str, registry: Registry
) -> None:
    registry.process.signal(signal.SIGSTOP)
    log = snapshotter.machine.logs / "modelpack-snapshotter.log"
    try:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(mounted, newest_containerd, model, "never")
            snapshotter.process.wait_until(
                lambda: any(name.endswith("/never") for name in snapshots(snapshotter)),
                "a snapshot whose model is being mounted",
            )
            snapshotter.process.signal(signal.SIGTERM)
            assert snapshotter.process.wait(60) == 0
            with pytest.raises(CommandError):
                waiting.result(60)
    finally:
        registry.process.signal(signal.SIGCONT)
    assert "stopped" in [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert mount_points(snapshotter.machine) == []


def test_mounts_of_a_killed_daemon_are_found_though_its_state_is_a_link(
    machine: Machine, places: Places, registry: Registry
) -> None:
    """/var/run is one, and the kernel shows mounts by their real path."""
    real = places.state.rename(places.state.with_name("real"))
    places.state.symlink_to(real)
    with (
        Snapshotter(machine, places) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        tag = push_model(snapshotter, registry).tag
        snapshotter.modelpack("pull", "--as", "stub", tag)
        machine.run(["umount", str(mounted(containerd, tag, "before"))])
        snapshotter.process.kill()
        snapshotter.start()
        containerd.wait_for_snapshotter()
        target = mounted(containerd, tag, "after")
        assert machine.run(["ls", str(target)]).stdout
        machine.run(["umount", str(target)])
        assert len(mount_points(machine)) == 1
        assert "served on" in (machine.logs / "modelpack-snapshotter.log").read_text()


def test_a_service_manager_that_does_not_listen_is_no_reason_not_to_serve(
    machine: Machine, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    with Snapshotter(machine, places) as snapshotter:
        assert snapshotter.status()["models"] == []
        snapshotter.process.signal(signal.SIGTERM)
        assert snapshotter.process.wait(60) == 0
    assert "systemd not told" in (machine.logs / "modelpack-snapshotter.log").read_text()
