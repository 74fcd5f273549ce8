"""The daemon killed at the worst moments of a mount's life, and containerd beside it."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.processes import Process
from integration.harness.registry import Registry
from integration.harness.rootfs import ROOTFS_IMAGE
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command

# Calls after, or before, which the daemon kills itself, once: when the file "die" is there.
MOMENTS = {
    "before the mount, once the keeper has it": ("snapshotter.mounts.serving", "mount", "opened"),
    "after the mount, before it is served": ("snapshotter.mounts.serving", "mount", "after"),
    "before INIT is agreed on": ("snapshotter.mounts.ledger:Ledger", "agree", "before"),
    "before INIT is answered": ("snapshotter.mounts.ledger:Ledger", "agree", "after"),
    "before the mount is known": ("snapshotter.mounts.serving", "set_readahead", "after"),
    "before it is detached": ("snapshotter.mounts.serving", "unmount", "before"),
    "while it is detached": ("snapshotter.mounts.serving", "unmount", "after"),
    "before the keeper lets it go": ("snapshotter.keeper.keeping:Keeping", "drop", "before"),
}
_DYING = """
import importlib, os, signal, sys
where, name, when, trigger = {place!r}
module, _, owner = where.partition(":")
owner = importlib.import_module(module) if not owner else getattr(
    importlib.import_module(module), owner)
call = getattr(owner, name)
def die():
    if os.path.exists(trigger):
        os.unlink(trigger)
        os.kill(os.getpid(), signal.SIGKILL)
def dying(*arguments, **named):
    if when == "before":
        die()
    if when == "opened":
        keep = named["opened"]
        named["opened"] = lambda fd: (keep(fd), die())
    answer = call(*arguments, **named)
    if when == "after":
        die()
    return answer
setattr(owner, name, dying)
from snapshotter.daemon import main
main()
"""


def mount_points(machine: Machine) -> list[str]:
    lines = machine.run(["cat", "/proc/self/mountinfo"]).stdout.splitlines()
    points = [line.split()[4] for line in lines if " fuse.modelpack " in line]
    return [point for point in points if Path(point).is_relative_to(machine.root)]


def sums(machine: Machine, target: str) -> dict[str, str]:
    listed = machine.run(["sh", "-c", sums_command(target)], seconds=60).stdout
    return read_sums(listed, target)


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_next_daemon_takes_up_where_one_was_killed(
    machine: Machine, places: Places, registry: Registry, moment: str
) -> None:
    trigger = machine.root / "die"

    class Dying(Snapshotter):
        program = (
            str(PROGRAMS / "python"),
            "-c",
            _DYING.format(place=(*MOMENTS[moment], str(trigger))),
        )

    with (
        Dying(machine, places) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "stub", model.tag)
        target = str(machine.directory("mounted"))
        mount = ("images", "mount", "--snapshotter", "modelpack", model.tag)
        ending = any(word in moment for word in ("detach", "lets it go"))
        if not ending:
            trigger.touch()
            with pytest.raises(CommandError):
                containerd.ctr(*mount, target, seconds=60)
        else:
            containerd.ctr(*mount, target)
            trigger.touch()
            end(containerd, model, target)
        snapshotter.process.wait(60)
        assert not trigger.exists()
        snapshotter.start()
        containerd.wait_for_snapshotter()
        if not ending:
            other = str(machine.directory("other"))
            containerd.ctr(*mount, other)
            assert sums(machine, other) == model.sums
            end(containerd, model, other)
        # One after the other: detached, forgotten, no longer held.
        containerd.process.wait_until(
            lambda: (
                not mount_points(machine)
                and not list((places.state / "mounts").iterdir())
                and not (told := snapshotter.status())["models"]
                and told["keeper"]["holds"] == 0
            ),
            "the end of all mounts",
        )


def end(containerd: Containerd, model: PushedModel, target: str) -> None:
    """Take the mount and all snapshots away, as a node does that needs the model no more."""
    containerd.machine.run(["umount", target])
    for line in containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls").splitlines()[1:]:
        if "Committed" not in line:
            containerd.ctr("snapshots", "--snapshotter", "modelpack", "rm", line.split()[0])
    containerd.ctr("leases", "rm", target)
    # The collection of garbage meets the daemon's death, and tries again later.
    containerd.ctr("images", "rm", "--sync", model.tag)


_READER = """
while :; do
    if [ -e /shared/ask ]; then
        rm /shared/ask
        find /models -type f -exec sha256sum {} + > /shared/new 2>&1
        mv /shared/new /shared/answer
    fi
    sleep 0.1
done
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_containers_read_on_while_containerd_and_daemon_are_away(
    machine: Machine, places: Places, registry: Registry, number: signal.Signals
) -> None:
    with (
        Snapshotter(machine, places, additions={"mounts": {"passthrough": False}}) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        containerd.import_rootfs()
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "stub", model.tag)
        target = str(machine.directory("mounted"))
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
        shared = machine.directory("shared")
        (shared / "reader.sh").write_text(_READER)
        containerd.ctr(
            *("run", "--detach", "--cgroup", f"/{machine.cgroup}/reader"),
            *("--mount", f"type=bind,src={target},dst=/models,options=rbind:ro"),
            *("--mount", f"type=bind,src={shared},dst=/shared,options=rbind:rw"),
            *(ROOTFS_IMAGE, "reader", "/bin/sh", "/shared/reader.sh"),
        )

        def read(daemon: Process) -> dict[str, str]:
            (shared / "answer").unlink(missing_ok=True)
            (shared / "ask").touch()
            daemon.wait_until((shared / "answer").exists, "the reader's answer", seconds=60)
            return read_sums((shared / "answer").read_text(), "/models")

        containerd.process.signal(number)
        containerd.process.wait(60)
        assert read(snapshotter.process) == model.sums
        snapshotter.process.signal(number)
        snapshotter.process.wait(60)
        containerd.start()  # with nobody on the snapshotter's socket
        snapshotter.start()
        assert read(snapshotter.process) == model.sums
        containerd.wait_for_snapshotter()
        again = str(machine.directory("again"))
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, again)
        assert sums(machine, again) == model.sums
        for point in (again, target):
            machine.run(["umount", point])
