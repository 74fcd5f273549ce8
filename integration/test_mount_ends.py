"""However `modelpack mount` ends, no mount is left that nobody serves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse.mount import fuse_mounts
from integration.harness.processes import Process
from integration.harness.registry import Registry
from integration.test_cri_pods import eventually
from integration.test_mount_command import MODELPACK, Mounter


@pytest.fixture
def mounter(tmp_path: Path, registry: Registry) -> Iterator[Mounter]:
    mounter = Mounter(tmp_path, registry)
    yield mounter
    left = [m.mount_point for m in fuse_mounts("modelpack") if m.mount_point == mounter.point]
    assert not left


def background(mounter: Mounter, *options: str) -> Process:
    return Process(
        [MODELPACK, "mount", mounter.reference, str(mounter.point), "-d", *options],
        log=mounter.home / "start.log",
        environment=mounter.environment,
    )


def test_the_end_of_the_terminal_unmounts(mounter: Mounter) -> None:
    process = mounter.foreground()
    process.signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert not mounter.is_mounted()


def test_a_second_signal_does_not_wait_for_readers(mounter: Mounter) -> None:
    process = mounter.foreground()
    with (mounter.point / "config.json").open():
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: not mounter.is_mounted(), "the end of the mount")
        assert process.running
        process.signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert "serving on until they are closed" in process.log.read_text()
    assert "Traceback" not in process.log.read_text()


def test_a_signal_after_a_lazy_unmount_leaves_readers_what_they_have(mounter: Mounter) -> None:
    process = mounter.foreground()
    with (mounter.point / "config.json").open() as held:
        mounter.modelpack("umount", "--lazy", str(mounter.point))
        process.signal(signal.SIGTERM)
        process.wait_until(lambda: "serving on" in process.log.read_text(), "a word about it")
        assert held.read() == (mounter.source / "config.json").read_text()
    assert process.wait(60) == 0


def test_a_start_that_is_given_up_takes_its_mount_back(
    mounter: Mounter, registry: Registry
) -> None:
    log = mounter.home / "log"
    registry.process.signal(signal.SIGSTOP)
    started = background(mounter, "--log", str(log))
    try:
        started.wait_until(lambda: len(mounter.servers()) > 1, "the process in the background")
        started.kill()
    finally:
        registry.process.signal(signal.SIGCONT)
    eventually(lambda: "taken back" in log.read_text(), "a word about it")
    assert not mounter.is_mounted()
    assert "Traceback" not in log.read_text()


def test_a_log_that_cannot_be_written_is_told_before_anything_is_mounted(mounter: Mounter) -> None:
    refused = mounter.modelpack(
        "mount", mounter.reference, str(mounter.point), "-d", "--log", "/proc/none/log", check=False
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("modelpack: cannot write the log /proc/none/log")
    assert len(refused.stderr.splitlines()) == 1
    assert not mounter.is_mounted()
