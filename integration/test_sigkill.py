"""The daemon killed again and again while a container reads: every byte is right, nothing fails."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from integration.harness.container import Container
from integration.harness.containerd import Containerd, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command

KILLS = 34
"""Of each of three ways to read: a hundred together."""

# What the container's readers run. Python of this machine: it is what can map files. Each
# time round the pages are dropped, so that the next one asks the daemon again.
READER = """
import hashlib, json, mmap, os, random, sys, time
how, directory, stop = sys.argv[1:]
rounds = errors = 0
longest = 0.0
sums = {}
last = time.monotonic()
def tick():
    global last, longest
    now = time.monotonic()
    longest, last = max(longest, now - last), now
while True:
    done = os.path.exists(stop)
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        hashed = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if how == "mapped" and size:
                with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    for at in range(0, size, 1 << 18):
                        hashed.update(mapped[at : at + (1 << 18)])
                        tick()
            elif how == "random":
                pieces = {}
                starts = list(range(0, size, 1 << 18))
                random.shuffle(starts)
                for at in starts:
                    pieces[at] = os.pread(file.fileno(), 1 << 18, at)
                    tick()
                for at in sorted(pieces):
                    hashed.update(pieces[at])
            else:
                while piece := file.read(1 << 18):
                    hashed.update(piece)
                    tick()
        if sums.setdefault(name, hashed.hexdigest()) != hashed.hexdigest():
            errors += 1
    rounds += 1
    if done:
        break
print(json.dumps({"rounds": rounds, "longest": longest, "errors": errors, "sums": sums}))
"""


def python(inside: str) -> str:
    """The command that runs this machine's Python in a container that has /usr at ``inside``."""
    program = Path("/usr/bin/python3").resolve()
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    libraries = [Path(found).resolve() for found in re.findall(r"(/\S+)(?= \(0x)", told)]
    (loader,) = [library for library in libraries if library.name.startswith("ld-")]
    places = ":".join(sorted({f"{inside}{library.parent}" for library in libraries}))
    return f"PYTHONHOME={inside}/usr {inside}{loader} --library-path {places} {inside}{program}"


@dataclass
class Reading:
    """A container that reads a model again and again."""

    snapshotter: Snapshotter
    containerd: Containerd
    container: Container
    model: PushedModel
    shared: Path

    def during(self, how: str, what: Callable[[], None]) -> dict[str, Any]:
        """Read in this way while ``what`` happens; what the reader found."""
        stop = self.shared / "stop"
        (self.shared / "reader.py").write_text(READER)
        with ThreadPoolExecutor(1) as threads:
            reading = threads.submit(
                self.container.ask,
                f"{python('/host')} /shared/reader.py {how} /models /shared/stop",
            )
            try:
                what()
            finally:
                stop.touch()
            found: dict[str, Any] = json.loads(reading.result())
        stop.unlink()
        assert found["sums"] == self.model.sums
        assert found["errors"] == 0
        return found


@contextmanager
def reading(
    machine: Machine,
    places: Places,
    registry: Registry,
    *,
    passthrough: bool,
    daemon: type[Snapshotter] = Snapshotter,
) -> Iterator[Reading]:
    """Without passthrough the daemon is needed for every byte, also once all are here."""
    additions = {"mounts": {"passthrough": passthrough}}
    shared = machine.directory("shared")
    with (
        daemon(machine, places, additions=additions) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        containerd.import_rootfs()
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "stub", model.tag)
        target = str(machine.directory("mounted"))
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
        mounts = [
            f"type=bind,src={target},dst=/models,options=rbind:ro",
            f"type=bind,src={shared},dst=/shared,options=rbind:rw",
            "type=bind,src=/usr,dst=/host/usr,options=rbind:ro",
        ]
        with Container(containerd, "reader", mounts=mounts) as container:
            yield Reading(snapshotter, containerd, container, model, shared)


def kill_and_start(snapshotter: Snapshotter, kills: int, seed: int) -> None:
    """Exactly so many SIGKILLs: some die while they serve, some before they have begun to."""
    chance = random.Random(seed)
    for number in range(kills):
        early = number % 3 == 2
        if early:
            snapshotter.begin()
        elif number:
            snapshotter.start()
        time.sleep(chance.uniform(0.2, 0.8) if early else chance.uniform(0, 0.2))
        assert snapshotter.process.running  # or it would be no SIGKILL that ended it
        snapshotter.process.kill()
    snapshotter.start()


def test_files_that_become_complete_between_two_kills_are_read_by_the_kernel_and_right(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=True) as reader:
        reader.during("in-order", lambda: kill_and_start(reader.snapshotter, 8, 3))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["in-order", "mapped", "random"])
def test_no_read_fails_and_no_byte_is_wrong_however_often_the_daemon_is_killed(
    machine: Machine, places: Places, registry: Registry, how: str
) -> None:
    with reading(machine, places, registry, passthrough=False) as reader:
        begun = time.monotonic()
        found = reader.during(how, lambda: kill_and_start(reader.snapshotter, KILLS, 1))
        print(
            f"\n{KILLS} SIGKILLs in {time.monotonic() - begun:.1f} s, model read "
            f"{found['rounds']} times {how}, longest stall {found['longest']:.2f} s"
        )
        assert [model["digest"] for model in reader.snapshotter.status()["models"]] == [
            reader.model.digest.rpartition("@")[2]
        ]


class OldKernel(Snapshotter):
    """The daemon as it is below Linux 6.9, where the kernel does not send requests again."""

    program = (
        str(PROGRAMS / "python"),
        "-c",
        "import fuse.negotiate as negotiate\n"
        "negotiate._WANTED &= ~negotiate.InitFlag.HAS_RESEND\n"
        "from snapshotter.daemon import main\n"
        "main()",
    )


def test_below_linux_6_9_no_read_fails_or_hangs_either(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=False, daemon=OldKernel) as reader:
        found = reader.during("random", lambda: kill_and_start(reader.snapshotter, 12, 2))
        print(f"\nwithout resend: longest stall {found['longest']:.2f} s")


@pytest.mark.parametrize("daemon", [Snapshotter, OldKernel])
def test_a_read_that_waited_for_the_registry_is_answered_by_the_next_daemon(
    machine: Machine, places: Places, registry: Registry, daemon: type[Snapshotter]
) -> None:
    with reading(machine, places, registry, passthrough=False, daemon=daemon) as reader:
        snapshotter = reader.snapshotter
        registry.process.signal(signal.SIGSTOP)

        def kill_while_it_waits() -> None:
            for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
                time.sleep(0.3)
                snapshotter.process.signal(how)
                snapshotter.process.wait(60)
                snapshotter.start()
            served = "the mount being served on"
            snapshotter.process.wait_until(lambda: bool(snapshotter.status()["models"]), served)
            (shown,) = snapshotter.status()["models"]
            assert shown["present_bytes"] < shown["size_bytes"]  # what the mount began with

        def kill_and_go_on() -> None:
            try:
                kill_while_it_waits()
            finally:  # or the reader would wait on, and hide why
                registry.process.signal(signal.SIGCONT)

        reader.during("in-order", kill_and_go_on)


def test_an_upgrade_while_a_container_reads_is_a_pause(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=True) as reader:
        snapshotter = reader.snapshotter

        def upgrade() -> None:
            for _ in range(4):
                time.sleep(0.3)
                snapshotter.process.signal(signal.SIGTERM)
                assert snapshotter.process.wait(60) == 0
                snapshotter.start()

        reader.during("mapped", upgrade)
        log = (machine.logs / "modelpack-snapshotter.log").read_text()
        assert "left to the keeper" in log
        assert "Traceback" not in log


def keeper_pid(snapshotter: Snapshotter) -> int:
    """As its own namespace knows it; 0 while there is none."""
    return int(snapshotter.status()["keeper"].get("pid", 0))


def kill_keeper(snapshotter: Snapshotter) -> None:
    snapshotter.machine.run(["kill", "-KILL", str(keeper_pid(snapshotter))])


def kill_both(snapshotter: Snapshotter) -> None:
    """At once: the daemon has no time to begin another keeper."""
    keeper = keeper_pid(snapshotter)
    snapshotter.process.signal(signal.SIGSTOP)
    # Until it is gone: whoever came to a mount that is about to end got another error.
    end = f"kill -KILL {keeper}; while kill -0 {keeper} 2> /dev/null; do sleep 0.01; done"
    snapshotter.machine.run(["sh", "-c", end])
    snapshotter.process.kill()


def another_keeper_than(snapshotter: Snapshotter, dead: set[int]) -> bool:
    return keeper_pid(snapshotter) not in dead


def test_a_keeper_that_was_killed_is_replaced_and_the_next_daemon_serves_on(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=False) as reader:
        snapshotter = reader.snapshotter

        def kill_both_in_turn() -> None:
            for _ in range(3):
                dead = {0, keeper_pid(snapshotter)}
                kill_keeper(snapshotter)
                snapshotter.process.wait_until(
                    partial(another_keeper_than, snapshotter, dead), "another keeper"
                )
                assert snapshotter.status()["keeper"]["holds"] == 1
                snapshotter.process.kill()
                snapshotter.start()

        reader.during("random", kill_both_in_turn)
        assert "holds 1 mounts" in snapshotter.modelpack("status")


def test_when_both_are_killed_old_containers_get_errors_and_new_ones_work(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=False) as reader:
        snapshotter, containerd = reader.snapshotter, reader.containerd
        assert snapshotter.status()["keeper"]["rss_bytes"] < 20 << 20
        kill_both(snapshotter)
        said = reader.container.ask("cat /models/config.json || true", seconds=60)
        assert "Transport endpoint is not connected" in said
        snapshotter.start()
        containerd.wait_for_snapshotter()
        target = str(machine.directory("again"))
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", reader.model.tag, target)
        listed = machine.run(["sh", "-c", sums_command(target)]).stdout
        assert read_sums(listed, target) == reader.model.sums
        machine.run(["umount", target])


def test_files_the_kernel_reads_itself_need_no_daemon(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=True) as reader:
        snapshotter, container = reader.snapshotter, reader.container
        # The rest comes in the background. A file that was just closed, as cat's, may not be
        # known to be: nobody has opened this one.
        container.ask("cat /models/model-00002-* > /dev/null")
        snapshotter.wait_until_verified()
        name = "model-00001-of-00004.safetensors"
        container.ask(f"exec 7< /models/{name}")
        container.ask(f"tail -c 1 /models/{name} > /dev/null")  # the open above was answered
        snapshotter.process.kill()
        assert reader.model.sums[name] in container.ask("sha256sum <&7", seconds=60)
        snapshotter.start()
        # The same nodeid is opened with the same backing file, or the kernel would say EIO.
        assert reader.model.sums[name] in container.ask(f"sha256sum /models/{name}")
        assert container.ask("sha256sum /models/*.safetensors | wc -l") == "4"


def test_all_that_a_stopped_daemon_left_is_unmounted_by_a_command(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=False) as reader:
        snapshotter = reader.snapshotter
        argv = [*snapshotter.program, "--config", str(snapshotter.configuration), "--unmount"]
        with pytest.raises(CommandError, match="in use by another modelpack-snapshotter"):
            machine.run(argv, environment=snapshotter.environment)
        snapshotter.process.signal(signal.SIGTERM)
        assert snapshotter.process.wait(60) == 0
        assert "unmounted 1 models" in machine.run(argv, environment=snapshotter.environment).stdout
        said = reader.container.ask("cat /models/config.json || true", seconds=60)
        assert "Transport endpoint is not connected" in said
        assert not list((places.state / "mounts").iterdir())
        assert not (places.state / "keeper.sock").exists()


def test_a_mount_whose_manifest_is_lost_waits_for_the_registry(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with reading(machine, places, registry, passthrough=False) as reader:
        snapshotter = reader.snapshotter
        snapshotter.process.kill()
        for document in (places.root / "documents").rglob("*"):
            if document.is_file():
                document.unlink()
        registry.process.signal(signal.SIGSTOP)
        try:
            snapshotter.start()
            assert snapshotter.status()["models"] == []
            assert snapshotter.status()["keeper"]["holds"] == 1
        finally:
            registry.process.signal(signal.SIGCONT)
        assert "model_type" in reader.container.ask("cat /models/config.json", seconds=60)
