"""A model is not handed to who would mount an empty directory instead of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fuse.mount import mount, unmount
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.visibility import check_seen


@contextmanager
def apart() -> Iterator[int]:
    """A process whose mounts are its own from now on."""
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 600"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "a model"
    path.mkdir()
    return path


@contextmanager
def mounted(directory: Path) -> Iterator[None]:
    """Served by nobody: to look at it would hang."""
    fd = mount(directory, fsname="model", subtype="modelpack-test")
    try:
        yield
    finally:
        unmount(directory, lazy=True)
        os.close(fd)


def test_who_shares_our_mounts_sees_them(directory: Path) -> None:
    with mounted(directory), subprocess.Popen(["sleep", "60"]) as process:
        check_seen(directory, process.pid, "containerd")
        process.kill()


def test_what_is_mounted_after_a_process_went_apart_is_not_seen_by_it(directory: Path) -> None:
    with apart() as pid, mounted(directory):
        with pytest.raises(MountError, match=f"containerd .process {pid}.*empty directory"):
            check_seen(directory, pid, "containerd")
        with apart() as later:
            check_seen(directory, later, "containerd")


def test_another_mount_in_its_place_is_not_it(directory: Path) -> None:
    with ExitStack() as earlier:
        earlier.enter_context(mounted(directory))
        with apart() as pid:
            earlier.close()
            with mounted(directory), pytest.raises(MountError, match="does not see"):
                check_seen(directory, pid, "containerd")


def test_of_a_process_that_is_not_known_nothing_is_said(directory: Path) -> None:
    with mounted(directory):
        check_seen(directory, None, "containerd")
        check_seen(directory, 2**22 + 1, "containerd")
