"""The daemon's life: start, clean stop, restart, and what it says of itself."""

from __future__ import annotations

import json
import signal
import stat

import pytest

from integration.harness.container import Container
from integration.harness.containerd import Containerd, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command


@pytest.fixture
def containerd(newest_containerd: Containerd) -> Containerd:
    newest_containerd.import_rootfs()
    return newest_containerd


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry) -> PushedModel:
    return push_model(snapshotter, registry)


def mounted(containerd: Containerd, model: PushedModel, name: str) -> str:
    """Make the model known, and mount it as `ctr` does; where."""
    target = str(containerd.machine.directory(name))
    containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
    return target


def fuse_mounts(machine: Machine) -> list[str]:
    lines = machine.run(["cat", "/proc/self/mountinfo"]).stdout.splitlines()
    points = [line.split()[4] for line in lines if " fuse.modelpack " in line]
    return [point for point in points if point.startswith(str(machine.root))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_daemon_without_a_keeper_leaves_no_mount_and_no_socket(
    machine: Machine, places: Places, registry: Registry, number: signal.Signals
) -> None:
    additions = {"keeper": {"enabled": False}, "log": {"format": "json"}}
    with (
        Snapshotter(machine, places, additions=additions) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "stub", model.tag)
        assert "keeper: disabled" in snapshotter.modelpack("status")
        target = mounted(containerd, model, "mounted")
        containerd.machine.run(["umount", target])
        snapshotter.process.signal(number)
        assert snapshotter.process.wait(60) == 0
    assert fuse_mounts(snapshotter.machine) == []
    assert not list(snapshotter.places.state.glob("*.sock"))
    log = (snapshotter.machine.logs / "modelpack-snapshotter.log").read_text()
    assert "stopped" in [json.loads(line)["event"] for line in log.splitlines()]
    assert "Traceback" not in log


def test_after_a_restart_models_and_ordinary_layers_are_mounted_again(
    snapshotter: Snapshotter, containerd: Containerd, model: PushedModel
) -> None:
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    containerd.machine.run(["umount", mounted(containerd, model, "before")])
    with Container(containerd, "before", snapshotter="modelpack") as container:
        container.ask("true")
    snapshotter.process.kill()
    snapshotter.start()
    containerd.wait_for_snapshotter()
    target = mounted(containerd, model, "after")
    listed = containerd.machine.run(["sh", "-c", sums_command(target)]).stdout
    assert read_sums(listed, target) == model.sums
    with Container(containerd, "after", snapshotter="modelpack") as container:
        assert container.ask("echo again") == "again"


def test_after_a_reset_of_the_node_models_are_served_from_its_disk(
    snapshotter: Snapshotter,
    containerd: Containerd,
    registry: Registry,
    model: PushedModel,
    places: Places,
) -> None:
    machine = snapshotter.machine
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    with Container(containerd, "before", snapshotter="modelpack") as container:
        container.ask("true")
    machine.run(["sh", "-c", f"cat {mounted(containerd, model, 'before')}/* > /dev/null"])
    snapshotter.wait_until_verified()
    registry.stop()
    machine.reboot(places.state, machine.root / "containerd" / "state")
    assert fuse_mounts(machine) == []
    snapshotter.start()
    containerd.start()
    assert snapshotter.status()["models"] == []
    target = mounted(containerd, model, "after")
    listed = machine.run(["sh", "-c", sums_command(target)]).stdout
    assert read_sums(listed, target) == model.sums
    assert snapshotter.status()["fetched_bytes"] == 0
    with Container(containerd, "after", snapshotter="modelpack") as container:
        assert container.ask("echo again") == "again"
    machine.run(["umount", target])
    log = (machine.logs / "modelpack-snapshotter.log").read_text()
    assert "Traceback" not in log


def test_a_second_daemon_on_the_same_places_is_refused(snapshotter: Snapshotter) -> None:
    with pytest.raises(CommandError, match="in use") as refused:
        snapshotter.machine.run(
            [
                str(PROGRAMS / "modelpack-snapshotter"),
                *("--config", str(snapshotter.configuration)),
            ],
            environment=snapshotter.environment,
        )
    assert "Traceback" not in refused.value.stderr
    assert snapshotter.status()["models"] == []


def test_its_sockets_and_directories_are_its_own(snapshotter: Snapshotter) -> None:
    state, root = snapshotter.places.state, snapshotter.places.root
    for path in (state / "snapshotter.sock", state / "api.sock"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for path in (root / "cache", root / "snapshots", state / "mounts"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_status_is_told_to_people_and_to_scripts(
    snapshotter: Snapshotter, containerd: Containerd, model: PushedModel
) -> None:
    assert "no model is mounted" in snapshotter.modelpack("status")
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    target = mounted(containerd, model, "mounted")
    containerd.machine.run(["sh", "-c", f"cat {target}/*.safetensors > /dev/null"])
    told = snapshotter.modelpack("status")
    assert model.digest in told
    status = json.loads(snapshotter.modelpack("status", "--json"))
    (shown,) = status["models"]
    assert 0.9 < shown["present_bytes"] / shown["size_bytes"] <= 1
    assert status["memory"]["rss_anon_bytes"] < 150 << 20


def test_check_says_that_all_is_well(snapshotter: Snapshotter) -> None:
    checked = snapshotter.machine.run(
        [
            str(PROGRAMS / "modelpack-snapshotter"),
            *("--config", str(snapshotter.configuration), "--check"),
        ],
        environment=snapshotter.environment,
    )
    assert "in order" in checked.stdout
