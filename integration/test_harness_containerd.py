"""containerd, runc and the registry work here before the daemon comes into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.harness.container import Container, ContainerError
from integration.harness.containerd import Containerd
from integration.harness.images import FileLayer, Image
from integration.harness.machine import Machine
from integration.harness.registry import Registry


def test_containerd_loads_every_plugin_the_sample_configures(containerd: Containerd) -> None:
    plugins = containerd.plugins()

    assert plugins["io.containerd.grpc.v1.cri"] == "ok"
    assert plugins["io.containerd.snapshotter.v1.modelpack"] == "ok"
    if containerd.release.version != "1.6":
        assert plugins["io.containerd.transfer.v1.local"] == "ok"


def test_a_container_runs_commands_and_tells_their_output(containerd: Containerd) -> None:
    with Container(containerd, "one") as container:
        assert container.ask("echo hello; uname -s") == "hello\nLinux"
        assert container.ask("printf abc | sha256sum").startswith("ba7816bf")


def test_a_command_that_fails_in_a_container_is_an_error(containerd: Containerd) -> None:
    with (
        Container(containerd, "one") as container,
        pytest.raises(ContainerError, match=r"cat /nowhere: status 1: .*No such file"),
    ):
        container.ask("cat /nowhere")


def test_a_container_is_removed_with_its_task_and_snapshot(containerd: Containerd) -> None:
    with Container(containerd, "one"):
        assert "one" in containerd.ctr("tasks", "ls")
    assert "one" not in containerd.ctr("tasks", "ls")
    assert "one" not in containerd.ctr("containers", "ls")
    assert "one" not in containerd.ctr("snapshots", "--snapshotter", "overlayfs", "ls")


def test_an_image_is_pushed_pulled_and_read_in_a_container(
    containerd: Containerd, registry: Registry, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"\x07" * 3_000_000)
    Image.of([FileLayer("weights", tmp_path / "weights")]).push(registry.host, "plain", "1")
    name = f"{registry.host}/plain:1"

    containerd.ctr("images", "pull", "--plain-http", name)
    target = machine.directory("mounted")
    containerd.ctr("images", "mount", name, str(target))
    mount = f"type=bind,src={target},dst=/models,options=rbind:ro"
    with Container(containerd, "reader", mounts=[mount]) as container:
        assert container.ask("stat -c %s /models/weights") == "3000000"
    containerd.ctr("images", "unmount", str(target))


def test_containers_go_on_while_containerd_restarts(containerd: Containerd) -> None:
    containerd.ctr("run", "--detach", "registry.test/rootfs:latest", "sleeper", "sleep", "1000")
    containerd.stop()
    containerd.start()

    assert "RUNNING" in containerd.ctr("tasks", "ls")
    containerd.ctr("tasks", "kill", "--signal", "SIGKILL", "sleeper")


def test_everything_ends_with_the_machine(containerd: Containerd, machine: Machine) -> None:
    containerd.ctr("run", "--detach", "registry.test/rootfs:latest", "sleeper", "sleep", "1000")
    pids = [
        int(each.name)
        for each in Path("/proc").glob("[0-9]*")
        if str(machine.root) in _command_line(each)
    ]
    assert len(pids) > 2

    machine.close()

    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not machine.root.exists()


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""
