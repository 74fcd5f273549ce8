"""Daemon and keeper in the sandbox of their units: models are mounted and read as ever."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from integration.harness.configuration import SAMPLES
from integration.harness.container import Container
from integration.harness.containerd import Containerd, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.sandbox import may_raise_limits
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import push_model, read_sums, sums_command
from snapshotter.priority import PROMPT

DAEMON = SAMPLES / "modelpack-snapshotter.service"
KEEPER = SAMPLES / "modelpack-keeper.service"


def in_sandbox(unit: Path, *argv: str) -> Sequence[str]:
    return (sys.executable, "-m", "integration.harness.sandbox", str(unit), *argv)


UNSHARE = (
    "import ctypes, os; libc = ctypes.CDLL(None, use_errno=True)\n"
    "exit(os.strerror(ctypes.get_errno()) if libc.unshare(0x20000) else 0)"
)


class Sandboxed(Snapshotter):
    program = in_sandbox(DAEMON, str(PROGRAMS / "modelpack-snapshotter"))


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def quickest(pid: int) -> int:
    """The lowest nice value of its threads."""
    values = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            values.append(int(path.read_text().rpartition(")")[2].split()[16]))
    return min(values)


def namespaced(pid: int) -> int:
    """As its own namespace knows it."""
    return int(status(pid)["NSpid"].split()[-1])


@pytest.mark.parametrize("installed", [True, False], ids=["keeper-unit", "no-keeper-unit"])
def test_models_are_mounted_read_and_survive_a_kill_in_the_sandbox_of_the_units(
    machine: Machine, places: Places, registry: Registry, installed: bool
) -> None:
    """Where the keeper's unit is not installed the daemon starts a keeper, in its own sandbox."""
    if installed:
        socket = places.state / "keeper.sock"
        argv = in_sandbox(KEEPER, str(PROGRAMS / "modelpack-keeper"), "--socket", str(socket))
        keeper = machine.start(argv, log="keeper.log")
        keeper.wait_until(socket.exists, "its socket")
        is_confined(keeper.pid, capabilities=0)
    with (
        Sandboxed(machine, places) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        is_confined(snapshotter.process.pid, capabilities=7)
        nice = PROMPT if may_raise_limits() else os.nice(0)
        snapshotter.process.wait_until(
            lambda: quickest(snapshotter.process.pid) == nice, f"a thread of nice value {nice}"
        )
        if installed:
            assert snapshotter.status()["keeper"]["pid"] == namespaced(keeper.pid)
        containerd.import_rootfs()
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "stub", model.tag)
        target = str(machine.directory("mounted"))
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
        mounts = [f"type=bind,src={target},dst=/models,options=rbind:ro"]
        with Container(containerd, "reader", snapshotter="modelpack", mounts=mounts) as container:
            other = "model-00002-of-00004.safetensors"
            assert model.sums[other] in container.ask(f"sha256sum /models/{other}")
            snapshotter.wait_until_verified()  # the rest comes in the background
            name = "model-00001-of-00004.safetensors"
            container.ask(f"exec 7< /models/{name}")
            container.ask(f"tail -c 1 /models/{name} > /dev/null")  # the open above was answered
            assert snapshotter.status()["models"][0]["passthrough"]
            snapshotter.process.kill()
            assert model.sums[name] in container.ask("sha256sum <&7", seconds=60)
            snapshotter.start()
            assert snapshotter.status()["keeper"]["holds"] == 1
            assert read_sums(container.ask(sums_command("/models")), "/models") == model.sums
        machine.run(["umount", target])
    logs = "".join(path.read_text() for path in machine.logs.glob("*.log"))
    assert not re.search(r"Operation not permitted|EPERM|Traceback", logs)


def is_confined(pid: int, *, capabilities: int) -> None:
    told = status(pid)
    assert told["NoNewPrivs"] == "1"
    assert told["Seccomp"] == "2"  # a filter
    assert int(told["CapBnd"], 16).bit_count() == capabilities


@pytest.mark.parametrize(
    ("forbidden", "why"),
    [
        (UNSHARE, "Operation not permitted"),
        ("import os; os.chroot('/')", "Operation not permitted"),
        (
            "import os; os.mknod('/dev/shm/modelpack-test-device', 0o20600, os.makedev(1, 3))",
            "Operation not permitted",
        ),
        ("import socket; socket.socket(socket.AF_NETLINK)", "Operation not permitted"),
        ("import mmap; mmap.mmap(-1, 4096, prot=7)", "Operation not permitted"),
    ],
)
def test_what_the_daemon_needs_not_is_kept_from_it(
    machine: Machine, forbidden: str, why: str
) -> None:
    with pytest.raises(CommandError, match=why):
        machine.run(in_sandbox(DAEMON, sys.executable, "-c", forbidden))
