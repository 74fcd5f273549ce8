"""Killed at any moment, refused any call, or cut off from power: every byte a map claims
afterwards is the source's.

What is done meanwhile is everything that can be done to a cache: see cache_storm.py.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cache_storm
import pytest

STORM = str(Path(cache_storm.__file__))
KILLS = 200
POWER_CUTS = 100
CALLS = (
    "write,pwrite64,pwritev2,fdatasync,fsync,ftruncate,fallocate,rename,unlink,unlinkat,mkdir,rmdir"
)
"""Every call by which the files of a cache change, but for openat(2), which makes empty ones:
a program's start has too many of them."""
IMAGE_BYTES = 32 << 20
pytestmark = pytest.mark.timeout(600)
"""They wait for disks and start programs by the hundred."""


class Zygote:
    """Forks storms, and kills them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, STORM, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def storm(self, root: Path, seed: str, seconds: float) -> None:
        """One that is killed ``seconds`` after it began."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{root} {seed} {seconds}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "killed\n"

    def close(self) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.close()


def test_killed_at_any_moment_the_maps_claim_only_right_bytes(zygote, tmp_path) -> None:
    rng = random.Random(0)
    seed = survived = 0
    while seed < KILLS or survived <= KILLS // 2:  # on a slow disk little becomes durable
        root = tmp_path / f"cache-{seed % 4}"  # each goes on where one was killed
        zygote.storm(root, str(seed), rng.random() * 0.2)
        survived += cache_storm.check(root, lose_unclaimed=True) > 0
        seed += 1


def faults() -> list[int]:
    """The n-th call of a thread: early ones, then further apart."""
    return [*range(1, 22), *range(24, 60, 6)]


@pytest.mark.parametrize("number", range(3))
def test_killed_at_any_call_the_maps_claim_only_right_bytes(tmp_path, number) -> None:
    killed = 0
    for n in faults()[number::3]:
        root = tmp_path / f"cache-{n % 2}"
        killed += strace(root, f"kill{n}", f"{CALLS}:signal=SIGKILL:when={n}") != 0
        cache_storm.check(root, lose_unclaimed=True)
    assert killed > 6


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_refused_any_call_memory_and_maps_claim_only_right_bytes(tmp_path, error) -> None:
    ended = 0
    for n in faults()[::2]:
        root = tmp_path / f"cache-{n % 3}"
        when = f"{n}+7" if n % 4 else f"{n}"
        status = strace(root, f"{error}{n}", f"{CALLS},preadv:error={error}:when={when}")
        # 1: the cache could not even be opened.
        assert status in (0, 1), "memory claims wrong bytes, or a lent file was evicted"
        ended += status == 0
        cache_storm.check(root, lose_unclaimed=True)
    assert ended > 6


def strace(root: Path, seed: str, inject: str) -> int:
    """The status of a storm some call of which is spoilt."""
    return subprocess.run(
        [
            *("strace", "-f", "-qq", "-o", "/dev/null"),
            *("-e", f"trace={inject.split(':')[0]}", "-e", f"inject={inject}"),
            *(sys.executable, STORM, str(root), seed, "12"),
        ],
        capture_output=True,
        check=False,
        timeout=120,
    ).returncode


@contextmanager
def mounted(image: Path, directory: Path) -> Iterator[None]:
    options = "loop,commit=600"  # nothing is written that was not asked for
    subprocess.run(["mount", "-t", "ext4", "-o", options, image, directory], check=True)
    lazy = ["--lazy"]  # who failed may have a file open
    try:
        yield
        lazy = []
    finally:
        subprocess.run(["umount", *lazy, directory], check=True)


def test_after_a_power_cut_the_maps_claim_only_right_bytes(zygote, tmp_path) -> None:
    """What the block device holds the moment the process is dead is all there is afterwards:
    the kernel's memory, where written bytes wait for fdatasync(2), is lost."""
    disk, after, directory = tmp_path / "disk", tmp_path / "after", tmp_path / "mounted"
    directory.mkdir()
    with disk.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", disk], check=True)
    rng = random.Random(1)
    seed = survived = 0
    while seed < POWER_CUTS or survived <= POWER_CUTS // 2:
        with mounted(disk, directory):
            zygote.storm(directory / "cache", f"cut{seed}", 0.02 + rng.random() * 0.1)
            shutil.copyfile(disk, after)
        after.rename(disk)
        with mounted(disk, directory):
            survived += cache_storm.check(directory / "cache", lose_unclaimed=False) > 0
        seed += 1
