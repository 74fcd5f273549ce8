"""Wrong bytes in a real registry, read through real mounts: what readers see, and never see.

One byte of a shard is changed in the registry's own storage, behind its back.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fuse.mount import fuse_mounts, unmount
from integration.harness.containerd import Containerd
from integration.harness.machine import Machine
from integration.harness.model import write_model
from integration.harness.registry import Registry
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import PushedModel, push_model

MODELPACK = str(PROGRAMS / "modelpack")
CHUNK = 256 << 10
WRONG = 3
"""modelpack verify ends with this when it found wrong bytes."""
SECONDS = 90


def stored(registry: Registry, source: Path) -> Path:
    """The file in which the registry keeps the bytes of ``source``."""
    name = hashlib.sha256(source.read_bytes()).hexdigest()
    (found,) = registry.storage.glob(f"**/blobs/sha256/{name[:2]}/{name}/data")
    return found


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


class Stage:
    """A user who mounts a model one of whose shards the registry has wrong."""

    def __init__(self, home: Path, registry: Registry) -> None:
        self.registry = registry
        self.reference = f"{registry.host}/models/test:1"
        self.point = home / "mnt"
        self.point.mkdir()
        self.source = home / "model"
        write_model(self.source, 8 << 20)
        self.home = home
        self.config = home / "config.toml"
        self.configure("")
        self.modelpack("build", str(self.source), "-t", self.reference)
        self.modelpack("push", self.reference)
        self.shard = max(self.source.glob("*.safetensors"), key=lambda path: path.stat().st_size)
        self.data = self.shard.read_bytes()
        self.wrong = len(self.data) // 2
        self.shown = self.point / self.shard.name

    def configure(self, toml: str) -> None:
        self.config.write_text(
            f'root = "{self.home}/root"\nstate = "{self.home}/state"\n'
            f'[fetch]\nbackground_delay = "0s"\n{toml}'
        )

    def modelpack(self, *arguments: str, status: int = 0) -> str:
        environment = {**os.environ, "HOME": str(self.home), "DOCKER_CONFIG": str(self.home)}
        for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
            environment.pop(name, None)
        done = subprocess.run(
            [MODELPACK, "--config", str(self.config), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=SECONDS,
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    def damage(self) -> None:
        flip(stored(self.registry, self.shard), self.wrong)

    def mount(self) -> None:
        log = str(self.home / "log")
        self.modelpack("mount", self.reference, str(self.point), "-d", "--log", log)

    def read(self, start: int = 0, size: int | None = None) -> bytes | None:
        """What another process reads of the shard; None for EIO."""
        count = len(self.data) - start if size is None else size
        code = (
            "import os, sys\n"
            f"fd = os.open({str(self.shown)!r}, os.O_RDONLY)\n"
            f"at, end = {start}, {start + count}\n"
            "while at < end:\n"
            "    try: data = os.pread(fd, min(1 << 20, end - at), at)\n"
            "    except OSError as error: sys.exit(error.errno)\n"
            "    at += len(data) or sys.exit(99)\n"
            "    sys.stdout.buffer.write(data)\n"
        )
        done = subprocess.run(
            ["python3", "-c", code], capture_output=True, check=False, timeout=SECONDS
        )
        assert done.returncode in (0, 5), done.stderr
        return done.stdout if done.returncode == 0 else None

    def reads_others(self) -> bool:
        others = [path for path in self.source.rglob("*") if path.is_file() and path != self.shard]
        return all(
            (self.point / path.relative_to(self.source)).read_bytes() == path.read_bytes()
            for path in others
        )

    def chunk(self, number: int) -> tuple[bytes | None, bytes]:
        start = number * CHUNK
        expected = self.data[start : start + CHUNK]
        return self.read(start, len(expected)), expected


@pytest.fixture
def stage(tmp_path: Path, registry: Registry) -> Iterator[Stage]:
    stage = Stage(tmp_path, registry)
    yield stage
    if any(found.mount_point == stage.point for found in fuse_mounts("modelpack")):
        unmount(stage.point, lazy=True)


def test_in_the_background_a_reader_may_see_a_wrong_byte_until_the_blob_is_hashed(
    stage: Stage,
) -> None:
    stage.damage()
    stage.mount()
    seen = stage.read(0, 4096)
    assert seen in (None, stage.data[:4096])
    deadline = time.monotonic() + SECONDS
    # The whole blob is not served any more: nobody can tell which of its bytes are right. The
    # kernel is told last, to answer from no page it kept.
    while stage.read(stage.wrong, 1) is not None or stage.read(0, 4096) is not None:
        assert time.monotonic() < deadline, "wrong bytes are still served"
        time.sleep(0.1)
    assert stage.reads_others()
    assert "wrong bytes" in (stage.home / "log").read_text()


def test_strictly_no_byte_of_a_wrong_blob_is_ever_seen(stage: Stage) -> None:
    stage.configure('[verify]\nmode = "strict"\n')
    stage.damage()
    stage.mount()
    for start in (0, stage.wrong, len(stage.data) - 10):
        assert stage.read(start, 10) is None
    assert stage.reads_others()


def test_strictly_right_models_read_as_they_are(stage: Stage) -> None:
    stage.configure('[verify]\nmode = "strict"\n')
    stage.mount()
    assert stage.read() == stage.data
    assert stage.reads_others()


def pinned(stage: Stage) -> str:
    """Index the model into the registry, and pin what was said."""
    size = f"{CHUNK // 1024}KiB"
    said = json.loads(stage.modelpack("index", stage.reference, "--chunk-size", size, "--json"))
    stage.configure(f'[verify]\npinned_lists = ["{said["digest"]}={said["chunk_list"]}"]\n')
    return str(said["chunk_list"])


def test_with_a_pinned_chunk_list_only_the_wrong_chunk_fails_and_never_shows(stage: Stage) -> None:
    pinned(stage)
    stage.damage()
    stage.mount()
    bad = stage.wrong // CHUNK
    for number in range(-(-len(stage.data) // CHUNK)):
        seen, expected = stage.chunk(number)
        assert seen == (None if number == bad else expected)
    assert stage.reads_others()
    flip(stored(stage.registry, stage.shard), stage.wrong)
    deadline = time.monotonic() + SECONDS
    while stage.chunk(bad)[0] is None:
        assert time.monotonic() < deadline, "mended, and still not served"
        time.sleep(1)
    assert stage.read() == stage.data


def test_with_a_list_kept_on_this_node_only_the_wrong_chunk_fails(stage: Stage) -> None:
    cache = stage.home / ".cache" / "modelpack"
    size = f"{CHUNK // 1024}KiB"
    stage.modelpack(
        "index", "--local", "--cache", str(cache), "--chunk-size", size, stage.reference
    )
    stage.damage()
    stage.mount()
    assert stage.chunk(0)[0] == stage.chunk(0)[1]
    assert stage.chunk(stage.wrong // CHUNK)[0] is None


def test_a_pushed_chunk_list_can_be_pinned(stage: Stage) -> None:
    said = json.loads(stage.modelpack("push", "--chunks", stage.reference, "--json"))
    stage.configure(f'[verify]\npinned_lists = ["{said["digest"]}={said["chunk_list"]}"]\n')
    stage.mount()
    assert stage.read() == stage.data


def test_a_model_whose_pinned_list_is_not_to_be_had_is_not_served(stage: Stage) -> None:
    chunk_list = pinned(stage)
    text = stage.config.read_text()
    stage.config.write_text(text.replace(chunk_list, f"sha256:{'0' * 64}"))
    stage.modelpack("mount", stage.reference, str(stage.point), status=1)
    assert not stage.shown.exists()


def test_no_list_is_made_of_a_model_the_registry_has_wrong(stage: Stage) -> None:
    stage.damage()
    stage.modelpack("index", stage.reference, status=1)


def test_verifying_a_cache_finds_a_byte_that_rotted(stage: Stage) -> None:
    stage.mount()
    assert stage.read() == stage.data
    stage.modelpack("umount", str(stage.point))
    (cache,) = (stage.home / ".cache" / "modelpack").iterdir()
    deadline = time.monotonic() + SECONDS
    while subprocess.run(["flock", "-n", str(cache / "lock"), "true"], check=False).returncode:
        assert time.monotonic() < deadline, "the mount's process keeps the cache"
        time.sleep(0.1)
    stage.modelpack("verify", "--cache", str(cache))
    name = hashlib.sha256(stage.data).hexdigest()
    flip(cache / "blobs" / "sha256" / name / "data", stage.wrong)
    said = json.loads(stage.modelpack("verify", "--cache", str(cache), "--json", status=WRONG))
    verdicts = {blob["digest"]: blob["verdict"] for blob in said["blobs"]}
    assert verdicts[f"sha256:{name}"] == "bad"
    stage.mount()
    assert stage.read() == stage.data


# Through the daemon


@pytest.fixture
def containerd(newest_containerd: Containerd) -> Containerd:
    newest_containerd.import_rootfs()
    return newest_containerd


def verified(snapshotter: Snapshotter, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    argv = [MODELPACK, "--config", str(snapshotter.configuration), "verify", "--json", *arguments]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env=snapshotter.environment,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)["blobs"]


def test_the_daemon_verifies_what_it_serves_and_mends_it(
    machine: Machine, snapshotter: Snapshotter, containerd: Containerd, registry: Registry
) -> None:
    model: PushedModel = push_model(snapshotter, registry)
    snapshotter.modelpack("index", "--local", "--chunk-size", "256KiB", model.tag)
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    target = str(machine.directory("mounted"))
    containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
    shard = max(model.source.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    name = hashlib.sha256(shard.read_bytes()).hexdigest()
    compare = ["cmp", str(shard), f"{target}/{shard.name}"]
    machine.run(compare)
    deadline = time.monotonic() + SECONDS
    while (told := states(snapshotter))[f"sha256:{name}"] != "verified":
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    status, found = verified(snapshotter, model.tag)
    assert status == 0
    assert {blob["verdict"] for blob in found} <= {"verified", "partial"}

    (data,) = snapshotter.places.root.glob(f"**/blobs/sha256/{name}/data")
    flip(data, shard.stat().st_size // 2)
    status, found = verified(snapshotter)
    assert status == WRONG
    (bad,) = [blob for blob in found if blob["verdict"] == "bad"]
    assert (bad["digest"], bad["dropped"]) == (f"sha256:{name}", 256 << 10)
    assert snapshotter.status()["verification"]["verified_blobs"] > 0
    machine.run(compare)
    machine.run(["umount", target])

    snapshotter.stop()
    assert verified(snapshotter)[0] == 0
    snapshotter.start()


def states(snapshotter: Snapshotter) -> dict[str, str]:
    models = snapshotter.status()["models"]
    return {blob["digest"]: blob["state"] for model in models for blob in model["blobs"]}
