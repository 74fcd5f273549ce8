"""`modelpack mount` and `umount`: a model on a directory, without containerd and daemon."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.mount import fuse_mounts, unmount
from integration.harness.machine import CommandError, Machine
from integration.harness.model import write_model
from integration.harness.processes import Process
from integration.harness.registry import Registry
from integration.harness.snapshotter import PROGRAMS
from integration.test_cri_pods import eventually

MODELPACK = str(PROGRAMS / "modelpack")


class Mounter:
    """A user with a home, a model in a registry, and an empty directory."""

    def __init__(self, home: Path, registry: Registry) -> None:
        self.home = home
        self.reference = f"{registry.host}/models/test:1"
        self.point = home / "mnt"
        self.point.mkdir()
        self.source = home / "model"
        write_model(self.source, 8 << 20)
        self.environment = {**os.environ, "HOME": str(home), "DOCKER_CONFIG": str(home)}
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
            self.environment.pop(name, None)
        self.modelpack("build", str(self.source), "-t", self.reference)
        self.modelpack("push", self.reference)

    def modelpack(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MODELPACK, *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            check=check,
            timeout=60,
        )

    def foreground(self) -> Process:
        process = Process(
            [MODELPACK, "mount", self.reference, str(self.point)],
            log=self.home / "mount.log",
            environment=self.environment,
        )
        # Before it says so a signal ends the start, and waits for no reader.
        process.wait_until(lambda: "Ctrl-C" in process.log.read_text(), "the mount")
        return process

    def is_mounted(self) -> bool:
        return any(found.mount_point == self.point for found in fuse_mounts("modelpack"))

    def differences(self) -> str:
        return subprocess.run(
            ["diff", "-r", str(self.source), str(self.point)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        ).stdout

    def servers(self) -> list[str]:
        found = subprocess.run(
            ["pgrep", "-f", f"modelpack mount {self.reference}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return found.stdout.split()


@pytest.fixture
def mounter(tmp_path: Path, registry: Registry) -> Iterator[Mounter]:
    mounter = Mounter(tmp_path, registry)
    yield mounter
    if mounter.is_mounted():
        unmount(mounter.point, lazy=True)
        raise AssertionError("left mounted")


def test_a_model_is_mounted_in_the_background_and_unmounted(mounter: Mounter) -> None:
    said = mounter.modelpack("mount", mounter.reference, str(mounter.point), "-d").stdout
    assert f"10 files, 8.5 MiB at {mounter.point}" in said or " files, " in said
    assert mounter.differences() == ""
    mounter.modelpack("umount", str(mounter.point))
    assert not mounter.is_mounted()


def test_files_are_left_out_by_pattern_and_by_category(mounter: Mounter) -> None:
    left_out = ("--exclude", "*.safetensors", "--exclude-category", "doc")
    said = mounter.modelpack("mount", mounter.reference, str(mounter.point), "-d", *left_out)
    assert " left out)" in said.stdout
    assert {line.split(": ")[-1] for line in mounter.differences().splitlines()} == {
        "README.md",
        *(path.name for path in mounter.source.glob("*.safetensors")),
    }
    mounter.modelpack("umount", str(mounter.point))
    eventually(lambda: not mounter.servers(), "the end of the process that has the cache")
    wrong = mounter.modelpack(
        "mount", "--exclude", "*", mounter.reference, str(mounter.point), "-d", check=False
    )
    assert wrong.returncode == 1
    assert "every file of model" in wrong.stderr
    assert not mounter.is_mounted()


def test_the_process_behind_a_mount_ends_with_it(mounter: Mounter) -> None:
    mounter.modelpack("mount", mounter.reference, str(mounter.point), "-d")
    assert len(mounter.servers()) == 1
    mounter.modelpack("umount", str(mounter.point))
    eventually(lambda: not mounter.servers(), "the end of the process")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_unmounts(mounter: Mounter, number: signal.Signals) -> None:
    process = mounter.foreground()
    assert mounter.differences() == ""
    process.signal(number)
    assert process.wait(60) == 0
    assert not mounter.is_mounted()


def test_what_was_fetched_once_is_there_the_next_time(mounter: Mounter, registry: Registry) -> None:
    mounter.modelpack("mount", mounter.reference, str(mounter.point), "-d")
    assert mounter.differences() == ""
    mounter.modelpack("umount", str(mounter.point))
    blobs = [*(mounter.home / ".cache" / "modelpack").glob("*/blobs/*/*/data")]
    assert sum(path.stat().st_blocks * 512 for path in blobs) >= 8 << 20


def test_a_mount_in_use_is_not_taken_away_unless_lazily(mounter: Mounter) -> None:
    mounter.modelpack("mount", mounter.reference, str(mounter.point), "-d")
    with (mounter.point / "config.json").open() as held:
        refused = mounter.modelpack("umount", str(mounter.point), check=False)
        assert refused.returncode == 1
        assert "in use" in refused.stderr
        mounter.modelpack("umount", "--lazy", str(mounter.point))
        assert held.read() == (mounter.source / "config.json").read_text()


def test_two_mounts_of_one_model_at_a_time_say_who_has_the_cache(
    mounter: Mounter, tmp_path: Path
) -> None:
    mounter.modelpack("mount", mounter.reference, str(mounter.point), "-d")
    other = tmp_path / "other"
    other.mkdir()
    refused = mounter.modelpack("mount", mounter.reference, str(other), check=False)
    assert refused.returncode == 1
    assert "in use by another process" in refused.stderr
    mounter.modelpack("umount", str(mounter.point))


def test_a_reader_that_waits_for_a_registry_that_hangs_can_be_interrupted(
    mounter: Mounter, registry: Registry
) -> None:
    mounter.modelpack("mount", mounter.reference, str(mounter.point), "-d")
    registry.process.signal(signal.SIGSTOP)
    try:
        # The end of a shard: nobody fetches that before it is read.
        shard = mounter.point / "model-00001-of-00004.safetensors"
        with subprocess.Popen(["tail", "-c", "1", str(shard)]) as reader:
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(1)
            reader.kill()
            assert reader.wait(60) == -signal.SIGKILL
    finally:
        registry.process.signal(signal.SIGCONT)
    mounter.modelpack("umount", str(mounter.point))


def test_the_harness_notices_a_program_that_fails(machine: Machine) -> None:
    with pytest.raises(CommandError, match="no model is mounted"):
        machine.run([MODELPACK, "umount", "/"])


NOBODY = 65534


def test_a_user_who_is_not_root_mounts_through_fusermount3(
    machine: Machine, registry: Registry
) -> None:
    machine.root.chmod(0o755)
    home = machine.root / "user"
    home.mkdir()
    mounter = Mounter(home, registry)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(home)], check=True)
    as_user = [
        *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
        # This repository may lie where only root can read.
        *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
    ]

    # For everybody, as udev makes it: a machine without udev has it for root only.
    device = machine.root / "fuse"
    os.mknod(device, stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)  # noqa: PTH116
    device.chmod(0o666)
    machine.run(["mount", "--bind", str(device), "/dev/fuse"])

    def as_them(*argv: str) -> None:
        machine.run([*as_user, *argv], environment=mounter.environment, seconds=60)

    as_them(MODELPACK, "mount", mounter.reference, str(mounter.point), "-d")
    as_them("diff", "-r", str(mounter.source), str(mounter.point))
    as_them(MODELPACK, "umount", str(mounter.point))
    assert str(mounter.point) not in machine.mounts()
