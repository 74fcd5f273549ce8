"""The cache of a real daemon keeps within its bounds, and nobody reads a wrong byte for it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command
from proto.containerd.services.snapshots.v1.snapshots_pb2 import (
    PrepareSnapshotRequest,
    RemoveSnapshotRequest,
)
from proto.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of, parse_digest
from snapshotter.artifact.mediatypes import OCI_INDEX, OCI_MANIFEST
from snapshotter.images.containerd import Containerd as Client
from snapshotter.images.containerd import Image

MIB = 1 << 20
SECONDS = 60


class Stage:
    """A node whose cache is small."""

    def __init__(
        self, snapshotter: Snapshotter, containerd: Containerd, registry: Registry
    ) -> None:
        self.snapshotter = snapshotter
        self.containerd = containerd
        self.registry = registry
        self.machine = snapshotter.machine
        self.cache = snapshotter.places.root / "cache"

    def push(self, name: str, **how: Any) -> PushedModel:
        return push_model(self.snapshotter, self.registry, name=f"models/{name}", **how)

    def mount(self, model: PushedModel) -> str:
        self.snapshotter.modelpack("pull", "--as", "stub", model.tag)
        target = str(self.machine.directory(f"mounted-{model.source.name}"))
        self.containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
        return target

    def unmount(self, target: str) -> None:
        self.containerd.ctr("images", "unmount", "--rm", "--snapshotter", "modelpack", target)

    def sums(self, target: str) -> dict[str, str]:
        return read_sums(self.machine.run(["sh", "-c", sums_command(target)]).stdout, target)

    def used(self) -> int:
        """Bytes of disk that data of blobs takes, by the file system's account."""
        total = 0
        for file in self.cache.glob("*/*/*/data"):
            with suppress(FileNotFoundError):  # evicted meanwhile
                total += file.stat().st_blocks * 512
        return total

    def there(self, model: PushedModel) -> int:
        """Bytes of the model's weights that are in the cache."""
        names = {digest for name, digest in model.sums.items() if name.endswith(".safetensors")}
        found = [path for path in self.cache.glob("blobs/*/*/data") if path.parent.name in names]
        return sum(map(_data_in, found))

    def gc(self, *arguments: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.snapshotter.modelpack("gc", "--json", *arguments))
        return told

    def collects(self, *arguments: str) -> bool:
        """Whether it knows again what containerd has: gRPC waits longer after each failure."""
        try:
            return bool(self.gc(*arguments))
        except CommandError:
            return False

    def until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.snapshotter.status()
            time.sleep(0.1)


def _data_in(file: Path) -> int:
    """Bytes that are no hole. Blocks are no measure of what stays: writing back changes them."""
    total = end = 0
    with suppress(FileNotFoundError), open(file, "rb") as opened:
        try:
            while True:
                start = os.lseek(opened.fileno(), end, os.SEEK_DATA)
                end = os.lseek(opened.fileno(), start, os.SEEK_HOLE)
                total += end - start
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data behind
                raise
    return total


@contextmanager
def staged(machine: Machine, places: Places, registry: Registry, **cache: Any) -> Iterator[Stage]:
    additions = {
        "cache": {"keep_free": "0%", **cache},
        "fetch": {"background_delay": "0s"},
        "log": {"format": "json"},
    }
    with (
        Snapshotter(machine, places, additions=additions) as snapshotter,
        Containerd(machine, releases()[0], places) as containerd,
    ):
        containerd.import_rootfs()
        yield Stage(snapshotter, containerd, registry)


def watched(disk: Path, work: Callable[[], None]) -> int:
    """The most that was taken of the file system ``disk`` while ``work`` was done and at its end,
    as far as looks could tell. Each is one call: blobs that are looked at one after the other
    may come and go meanwhile, and be more together than there ever was."""
    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        most, over = 0, False
        while not over:
            over = working.done()
            found = os.statvfs(disk)
            most = max(most, (found.f_blocks - found.f_bfree) * found.f_frsize)
            time.sleep(0.005)
        working.result()
    return most


@pytest.mark.parametrize("in_use", ["0s", "300s"], ids=["evicting", "streaming"])
def test_a_model_larger_than_the_quota_is_read_right_and_the_quota_is_kept(
    machine: Machine, places: Places, registry: Registry, in_use: str
) -> None:
    cache = machine.directory("snapshotter/root/cache")
    machine.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(cache)])
    with staged(machine, places, registry, quota="12MiB", in_use=in_use) as stage:
        stage.cache = machine.seen(cache)
        model = stage.push("large")
        target = stage.mount(model)
        seen: list[dict[str, str]] = []

        def read() -> None:
            seen.extend(stage.sums(target) for _ in range(3))

        most = watched(stage.cache, read)
        assert seen == [model.sums] * 3
        assert MIB < most < 12 * MIB + MIB  # maps, directories, and ends of blocks
        assert stage.used() <= 12 * MIB
        assert stage.snapshotter.status()["cache"]["allowed_bytes"] == 12 * MIB
        log = machine.logs / "modelpack-snapshotter.log"
        if in_use == "0s":  # the kernel has what was read: three readings may take no second
            stage.until(lambda: "cache evicted" in log.read_text())
        else:
            assert "cache evicted" not in log.read_text()
        assert "Traceback" not in log.read_text()


def test_compressed_layers_share_the_quota_and_a_new_model_pushes_out_an_old_one(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with staged(machine, places, registry, quota="40MiB", in_use="0s") as stage:
        old, new = stage.push("old"), stage.push("new", seed=2)
        target = stage.mount(old)
        assert stage.sums(target) == old.sums
        stage.unmount(target)

        def pushed_out() -> bool:
            """What was read before there was room for it comes with another reading."""
            target = stage.mount(new)
            assert stage.sums(target) == new.sums
            stage.unmount(target)
            return stage.there(new) > 20 * MIB > stage.there(old)

        stage.until(pushed_out)
        stage.until(lambda: stage.used() <= 40 * MIB * 0.95)
        assert stage.there(new) > 20 * MIB > stage.there(old)
        assert stage.sums(stage.mount(old)) == old.sums


def test_a_pinned_model_stays_whatever_needs_room(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with staged(machine, places, registry, quota="40MiB", in_use="0s") as stage:
        modelpack = stage.snapshotter.modelpack
        pinned, other = stage.push("pinned"), stage.push("other", seed=2)
        assert "pinned (sha256:" in modelpack("pin", pinned.tag)
        target = stage.mount(pinned)
        assert stage.sums(target) == pinned.sums
        stage.unmount(target)
        whole = stage.there(pinned)
        assert whole > 20 * MIB
        for _ in range(2):
            target = stage.mount(other)
            assert stage.sums(target) == other.sums
            stage.unmount(target)
        assert stage.there(pinned) == whole
        assert stage.there(other) < 40 * MIB - whole

        stage.containerd.ctr("images", "rm", "--sync", pinned.tag)
        assert not any(pinned.digest in one["models"] for one in stage.gc("--all")["freed"])
        assert stage.there(pinned) == whole
        assert f"pinned: {pinned.tag}" in modelpack("status")
        (pin,) = json.loads(modelpack("status", "--json"))["cache"]["pins"]
        assert (pin["references"], pin["digest"]) == (
            [pinned.tag],
            pinned.digest.rpartition("@")[2],
        )

        stage.snapshotter.process.kill()
        stage.snapshotter.start()
        assert stage.snapshotter.status()["cache"]["pins"] == [pin]
        modelpack("unpin", pinned.tag)
        with pytest.raises(CommandError, match="is not pinned"):
            modelpack("unpin", pinned.tag)
        assert stage.snapshotter.status()["cache"]["pins"] == []


def test_a_model_that_containerd_removed_frees_its_blobs_after_the_grace_time(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with staged(machine, places, registry, grace="2s") as stage:
        gone, kept = stage.push("gone"), stage.push("kept", seed=2)
        for model in (gone, kept):
            target = stage.mount(model)
            assert stage.sums(target) == model.sums
            stage.unmount(target)
        time.sleep(6)
        assert stage.there(gone) > 20 * MIB  # containerd has the image still
        stage.containerd.ctr("images", "rm", "--sync", gone.tag)
        digest = gone.digest.rpartition(":")[2]
        # Its manifest goes last.
        stage.until(lambda: not list((places.root / "documents").glob(f"*/{digest}")))
        assert stage.there(gone) == 0
        assert stage.there(kept) > 20 * MIB
        assert not list(stage.cache.glob("removed/*"))


def test_collecting_by_hand_says_what_it_would_do_and_does_it(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with staged(machine, places, registry) as stage:
        model = stage.push("model")
        target = stage.mount(model)
        assert stage.sums(target) == model.sums
        assert stage.gc("--all")["freed"] == []  # it is mounted
        stage.unmount(target)
        assert stage.gc("--all")["freed"] == []  # containerd has the image
        stage.containerd.ctr("images", "rm", "--sync", model.tag)
        there = stage.there(model)
        assert stage.gc()["freed"] == []  # a day has not passed
        # The daemon lets go of the model's files when the kernel has told it of the unmount.
        layers = len(set(model.sums.values()))
        stage.until(lambda: len(stage.gc("--all", "--dry-run")["freed"]) == layers)
        would = stage.gc("--all", "--dry-run")
        assert would["freed_bytes"] >= there > 20 * MIB
        assert stage.there(model) == there
        digest = model.digest.rpartition("@")[2]
        assert all(digest in one["models"] for one in would["freed"])
        assert "would free" in stage.snapshotter.modelpack("gc", "--all", "--dry-run")

        stage.containerd.stop()
        with pytest.raises(CommandError, match=r"containerd at .* does not answer"):
            stage.gc("--all")
        assert stage.there(model) == there
        stage.containerd.start()
        stage.until(lambda: stage.collects("--dry-run"))
        did = stage.gc("--all")
        assert names(did) == names(would)
        assert stage.there(model) == 0
        assert stage.sums(stage.mount(model)) == model.sums

        stage.snapshotter.stop()
        for command in (["gc"], ["pin", model.tag], ["unpin", model.tag]):
            with pytest.raises(CommandError, match="is modelpack-snapshotter running"):
                stage.snapshotter.modelpack(*command)
        stage.snapshotter.start()


def names(collected: dict[str, Any]) -> list[tuple[str, str]]:
    """What was freed. How many blocks of the disk that is, writing back changes."""
    return sorted((one["kind"], one["digest"]) for one in collected["freed"])


def put_index(places: Places, name: str, manifest: Digest) -> None:
    """Let the image ``name`` be one for several platforms, of which ``manifest`` is ours."""
    with Client(places.containerd) as client, client.lease("k8s.io") as lease:
        raw = client.read("k8s.io", manifest)
        assert raw is not None
        listed = {"mediaType": OCI_MANIFEST, "digest": manifest, "size": len(raw)}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [listed]}
        data = json.dumps(index).encode()
        labels = {"containerd.io/gc.ref.content.m.0": manifest}
        client.write("k8s.io", digest_of(data), data, labels, lease=lease)
        target = Descriptor(OCI_INDEX, digest_of(data), len(data))
        client.put_image("k8s.io", Image(name, target), lease=lease)


@pytest.mark.parametrize("listed", [False, True], ids=["its manifest", "an index"])
def test_an_image_without_a_snapshot_keeps_its_blobs(
    machine: Machine, places: Places, registry: Registry, listed: bool
) -> None:
    """As image volumes of containerd 2.1 have it: the snapshot ends with the pod."""
    with staged(machine, places, registry, grace="2s") as stage:
        model = stage.push("model")
        digest = model.digest.rpartition(":")[2]
        stage.snapshotter.modelpack("pull", "-n", "k8s.io", "--as", "direct", model.tag)
        key = f"/run/containerd/io.containerd.cri/image-volumes/0123ab/{digest}"
        metadata = (("containerd-namespace", "k8s.io"),)
        with grpc.insecure_channel(f"unix:{places.containerd}") as channel:
            snapshots = SnapshotsStub(channel)
            # The pull's lease has just ended: containerd collects what nobody refers to.
            request = PrepareSnapshotRequest(
                snapshotter="modelpack", key=key, labels={"containerd.io/gc.root": "now"}
            )
            (mount,) = snapshots.Prepare(request, metadata=metadata, timeout=SECONDS).mounts
            assert stage.sums(mount.source) == model.sums
            remove = RemoveSnapshotRequest(snapshotter="modelpack", key=key)
            snapshots.Remove(remove, metadata=metadata, timeout=SECONDS)
        if listed:
            put_index(places, model.tag, parse_digest(f"sha256:{digest}"))
        stage.until(lambda: not stage.snapshotter.status()["models"])
        time.sleep(6)
        assert stage.there(model) > 20 * MIB
        stage.containerd.ctr("images", "rm", "--sync", model.tag, namespace="k8s.io")
        stage.until(lambda: stage.there(model) == 0)


READER = """
import os, sys
fds = [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]
print("open", flush=True)
for _ in sys.stdin:
    for fd in fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.lseek(fd, 0, os.SEEK_SET)
        hashed = __import__("hashlib").sha256()
        while data := os.read(fd, 1 << 20):
            hashed.update(data)
        print(hashed.hexdigest(), flush=True)
"""


@contextmanager
def reader(machine: Machine, paths: list[str]) -> Iterator[Callable[[], list[str]]]:
    """A process that keeps files open, and reads them from the disk when asked."""
    with subprocess.Popen(
        [*machine.entering, "python3", "-c", READER, *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"

        def read() -> list[str]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("read\n")
            process.stdin.flush()
            return [process.stdout.readline().strip() for _ in paths]

        yield read
        process.stdin.close()


def shards(model: PushedModel, target: str) -> dict[str, str]:
    """Path as mounted to sha256, of the files of weights."""
    return {f"{target}/{name}": s for name, s in model.sums.items() if name.endswith("tensors")}


@pytest.mark.parametrize("life", ["one", "next", "orphaned"])
def test_a_file_the_kernel_reads_itself_survives_pressure(
    machine: Machine, places: Places, registry: Registry, life: str
) -> None:
    """Also when the daemon that opened it is gone, and its keeper too."""
    with staged(machine, places, registry, quota="40MiB", in_use="0s") as stage:
        held, other = stage.push("held"), stage.push("other", seed=2)
        target = stage.mount(held)
        assert stage.sums(target) == held.sums
        stage.snapshotter.wait_until_verified()
        files = shards(held, target)
        with reader(machine, list(files)) as read:
            assert stage.snapshotter.status()["models"][0]["passthrough"]
            if life != "one":
                told = stage.snapshotter.status()["keeper"]
                stage.snapshotter.process.kill()
                if life == "orphaned":
                    machine.run(["kill", "-9", str(told["pid"])])
                stage.snapshotter.start()
                stage.containerd.wait_for_snapshotter()
            whole = stage.there(held)
            for _ in range(2):
                there = stage.mount(other)
                assert stage.sums(there) == other.sums
                stage.unmount(there)
            assert stage.there(held) == whole
            assert read() == list(files.values())
            assert stage.used() <= 40 * MIB
        if life == "orphaned":
            machine.run(["umount", "--lazy", target])
        else:
            assert stage.sums(target) == held.sums
