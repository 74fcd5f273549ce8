"""A mounted model, seen as a container sees it: by other processes through the kernel."""

from __future__ import annotations

import gc
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mounts_node import FILES, SHARD, Node, shell
from registry_process import RegistryProcess

from fuse.mount import fuse_mounts
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.selection import Selection
from snapshotter.cache.blob import BlobState
from snapshotter.errors import ModelpackError
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.loader import Loader, Model
from snapshotter.mounts.options import MountOptions
from snapshotter.mounts.serving import Serving
from snapshotter.mounts.table import Mounts
from snapshotter.pack.build import build
from snapshotter.pack.push import push
from snapshotter.pack.record import BuildStore
from snapshotter.registry.reference import Reference


def test_every_file_has_the_bytes_of_its_source(
    node: Node, model: ModelRef, model_directory: Path
) -> None:
    directory = node.mounts.mount(model)
    compared = shell(f"diff -r {model_directory} {directory}")
    assert (compared.returncode, compared.stdout) == (0, b"")


def test_a_listing_fetches_nothing_of_raw_layers(node: Node, model: ModelRef) -> None:
    directory = node.mounts.mount(model)
    _until(lambda: not node.fetcher._busy())  # what is there can be read before it is counted
    headers = node.fetcher.stats.fetched_bytes  # of tar layers
    listed = shell(f"cd {directory} && find . -type f -size -100M | sort").stdout
    assert listed.split() == sorted(f"./{name}".encode() for name in FILES)
    assert node.fetcher.stats.fetched_bytes == headers


def test_a_byte_that_was_fetched_once_is_not_fetched_again(node: Node, model: ModelRef) -> None:
    directory = node.mounts.mount(model)
    for _ in range(2):
        shell(f"cat {directory}/*/* {directory}/*.* > /dev/null; echo 3 > /proc/sys/vm/drop_caches")
    total = sum(blob.size for blob in node.mounts.mounted()[0].model.blobs.values())
    assert node.fetcher.stats.fetched_bytes <= total


def test_files_are_readable_by_all_and_writable_by_none(node: Node, model: ModelRef) -> None:
    directory = node.mounts.mount(model)
    modes = shell(f"stat -c '%a %u:%g %n' {directory}/config.json {directory}/shards").stdout
    assert modes.decode().split() == [
        "444", "0:0", f"{directory}/config.json", "555", "0:0", f"{directory}/shards",
    ]  # fmt: skip
    assert shell(f"touch {directory}/new").returncode != 0
    assert b"Read-only file system" in shell(f": > {directory}/config.json").stderr


def test_the_owner_is_who_the_configuration_says_whatever_the_artifact_does(
    make_node: Callable[..., Node], model: ModelRef
) -> None:
    directory = make_node(MountOptions(uid=7, gid=8, prefetch=False)).mounts.mount(model)
    owners = shell(f"stat -c %u:%g {directory} {directory}/config.json {directory}/shards").stdout
    assert owners.split() == [b"7:8"] * 3


def test_a_model_mounted_twice_is_one_mount(node: Node, model: ModelRef) -> None:
    assert node.mounts.mount(model) == node.mounts.mount(model)
    assert len(node.mounts.mounted()) == 1


def test_a_released_model_is_unmounted_and_its_directory_gone(node: Node, model: ModelRef) -> None:
    directory = node.mounts.mount(model)
    (serving,) = node.mounts.mounted()
    node.mounts.release(model)
    assert serving.ended.wait(60)
    assert not directory.exists()


def test_who_holds_a_file_of_a_released_model_reads_on(node: Node, model: ModelRef) -> None:
    directory = node.mounts.mount(model)
    with subprocess.Popen(
        [
            "sh",
            "-c",
            f"exec 3< {directory}/shards/model.safetensors; echo open; read go; tail -c 7 <&3",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"open\n"
        (serving,) = node.mounts.mounted()
        node.mounts.release(model)
        again = node.mounts.mount(model)  # a new mount of the same model meanwhile
        assert not serving.ended.is_set()
        assert shell(f"tail -c 7 {again}/shards/model.safetensors").stdout == b"the end"
        assert reader.communicate(b"go\n") == (b"the end", None)
    assert serving.ended.wait(60)


def test_after_a_restart_a_model_is_mounted_without_its_registry(
    make_node: Callable[[], Node], model: ModelRef
) -> None:
    node = make_node()
    directory = node.mounts.mount(model)
    shell(f"cat {directory}/shards/* > /dev/null")
    node = make_node()
    node.registry.close()
    directory = node.mounts.mount(model)
    assert shell(f"cat {directory}/shards/*").stdout == SHARD


def test_a_mount_left_by_a_killed_daemon_is_taken_away(
    make_node: Callable[[], Node], model: ModelRef, tmp_path: Path
) -> None:
    node = make_node()
    directory = node.mounts.mount(model)
    (serving,) = node.mounts.mounted()
    serving.stop()  # as the kernel does for a process that dies
    with pytest.raises(OSError, match="Transport endpoint"):
        list(directory.iterdir())
    node.mounts._alive.clear()
    make_node()
    assert not [m for m in fuse_mounts("modelpack") if m.mount_point.is_relative_to(tmp_path)]


def test_a_model_that_is_not_in_the_registry_is_an_error_and_no_directory(
    node: Node, model: ModelRef, tmp_path: Path
) -> None:
    absent = ModelRef(model.registry, model.repository, Digest("sha256:" + "0" * 64))
    with pytest.raises(ModelpackError, match="has no manifest"):
        node.mounts.mount(absent)
    assert list((tmp_path / "mounts").iterdir()) == []


def test_a_directory_that_cannot_be_mounted_on_is_an_error_that_names_the_model(
    node: Node, model: ModelRef, tmp_path: Path
) -> None:
    (tmp_path / "mounts" / model.digest.removeprefix("sha256:")).write_text("in the way")
    with pytest.raises(MountError, match="cannot make"):
        node.mounts.mount(model)
    assert node.mounts.mounted() == []


def test_status_tells_what_is_here_of_a_model(node: Node, model: ModelRef) -> None:
    directory = node.mounts.mount(model)
    (serving,) = node.mounts.mounted()
    before = serving.describe()
    assert before["reference"] == str(model)
    assert before["state"] == "partial"
    shell(f"cat {directory}/shards/* {directory}/*.* > /dev/null")
    _until(lambda: serving.describe()["state"] in ("complete", "verified"))
    after = serving.describe()
    assert after["present_bytes"] == after["size_bytes"]


def _verified(serving: Serving) -> bool:
    """And durable, without which the kernel does not get it."""
    return all(
        blob.state is BlobState.VERIFIED and not blob.dirty for blob in serving.model.blobs.values()
    )


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_kernel_reads_verified_files_by_itself(
    make_node: Callable[[], Node], model: ModelRef
) -> None:
    node = make_node()
    directory = node.mounts.mount(model)
    (serving,) = node.mounts.mounted()
    shell(f"cat {directory}/*/* {directory}/*.* > /dev/null")
    assert serving.describe()["passthrough"]  # known once the kernel's first call was answered
    _until(lambda: _verified(serving))
    with subprocess.Popen(
        ["sh", "-c", f"exec 3< {directory}/shards/model.safetensors; echo open; read go; cat <&3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"open\n"
        if model.repository.endswith("raw"):
            # Nobody serves any more, and yet the file that is open can be read to its end.
            serving.stop()
        assert reader.communicate(b"go\n") == (SHARD, None)


def test_a_file_held_open_while_it_became_complete_is_fast_for_who_opens_it_next(
    node: Node, model: ModelRef
) -> None:
    directory = node.mounts.mount(model)
    (serving,) = node.mounts.mounted()
    path = f"{directory}/shards/model.safetensors"
    with subprocess.Popen(
        ["sh", "-c", f"exec 3< {path}; stat -L -c %i /proc/self/fd/3; read go; cat <&3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdout is not None
        inode = reader.stdout.readline().strip()
        shell(f"cat {directory}/*/* {directory}/*.* > /dev/null")
        _until(lambda: _verified(serving))
        _until(lambda: shell(f"cat {path}").stdout == SHARD)
        assert shell(f"stat -c %i {path}").stdout.strip() == inode
        assert reader.communicate(b"go\n") == (SHARD, None)


def test_wrong_bytes_are_not_shown_once_they_are_known_to_be_wrong(
    node: Node, docker_registry: RegistryProcess, tmp_path: Path
) -> None:
    good, wrong = b"good" * 50_000, b"evil" * 50_000
    reference = Reference.parse(f"{docker_registry.address}/mounts/wrong:1")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "w.safetensors").write_bytes(good)
    store = BuildStore(tmp_path / "wrong-builds")
    built = build(tmp_path / "source", reference, store)
    push(reference, store, node.registry)
    digest = digest_of(good)
    stored = docker_registry.storage / "docker/registry/v2/blobs/sha256" / digest[7:9] / digest[7:]
    (stored / "data").write_bytes(wrong)

    ref = ModelRef(reference.registry, reference.repository, built.digest)
    directory = node.mounts.mount(ref)
    shell(f"cat {directory}/w.safetensors > /dev/null")
    (serving,) = node.mounts.mounted()
    _until(lambda: serving.describe()["state"] == "bad")
    _until(lambda: b"Input/output error" in shell(f"cat {directory}/w.safetensors").stderr)


def test_an_unmounted_model_lets_go_of_its_blobs_at_once(
    make_node: Callable[[], Node], model: ModelRef
) -> None:
    """They may be removed then: nothing waits for a collector of cycles to come by."""
    node = make_node()
    gc.collect()
    gc.disable()
    try:
        directory = node.mounts.mount(model)
        shell(f"cat {directory}/*/* {directory}/*.* > /dev/null")
        _until(lambda: all(map(_verified, node.mounts.mounted())))
        node.mounts.release(model)
        _until(lambda: not node.mounts.mounted())
        node.store.flush()
        _until(lambda: node.store.blobs() == [])
    finally:
        gc.enable()


def test_a_model_whose_mount_somebody_took_away_is_mounted_again(
    node: Node, model: ModelRef
) -> None:
    directory = node.mounts.mount(model)
    with (directory / "config.json").open("rb"):  # a container that keeps the server alive
        shell(f"umount --lazy {directory}")
        assert list(directory.iterdir()) == []
        assert node.mounts.mount(model) == directory
        assert shell(f"cat {directory}/config.json").stdout == FILES["config.json"]


class _Slow(Loader):
    """A registry that takes its time, and then fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.begun = threading.Event()
        self.go = threading.Event()

    def load(self, ref: ModelRef, chosen: Selection | None = None) -> Model:
        self.asked += 1
        self.begun.set()
        assert self.go.wait(30)
        raise MountError(f"{ref}: attempt {self.asked}")


class _Announced:
    """A lock that says when somebody is about to wait for it."""

    def __init__(self, lock: threading.Lock, waiting: threading.Semaphore) -> None:
        self._lock = lock
        self._waiting = waiting

    def acquire(self, blocking: bool = True) -> bool:
        return self._lock.acquire(blocking)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._waiting.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _slowly(node: Node, tmp_path: Path) -> tuple[Mounts, _Slow]:
    loader = _Slow()
    return Mounts(tmp_path / "slow", loader, node.fetcher, MountOptions()), loader


def test_a_release_does_not_wait_for_a_mount_under_way(
    node: Node, model: ModelRef, tmp_path: Path
) -> None:
    mounts, loader = _slowly(node, tmp_path)
    with ThreadPoolExecutor() as threads:
        mounting = threads.submit(mounts.mount, model)
        assert loader.begun.wait(30)
        threads.submit(mounts.release, model).result(timeout=30)
        assert not mounting.done()
        loader.go.set()
        with pytest.raises(MountError):
            mounting.result(timeout=30)


def test_who_waited_for_an_attempt_that_failed_gets_its_error(
    node: Node, model: ModelRef, tmp_path: Path
) -> None:
    mounts, loader = _slowly(node, tmp_path)
    with ThreadPoolExecutor() as threads:
        first = threads.submit(mounts.mount, model)
        assert loader.begun.wait(30)
        (place,) = mounts._places.values()
        waiting = threading.Semaphore(0)
        place.lock = _Announced(place.lock, waiting)  # type: ignore[assignment]
        others = [threads.submit(mounts.mount, model) for _ in range(4)]
        for _ in others:
            assert waiting.acquire(timeout=30)
        loader.go.set()
        for mounting in (first, *others):
            with pytest.raises(MountError, match="attempt 1"):
                mounting.result(timeout=30)
    with pytest.raises(MountError, match="attempt 2"):
        mounts.mount(model)


def test_nothing_is_mounted_after_the_end(node: Node, model: ModelRef) -> None:
    node.mounts.close()
    with pytest.raises(MountError, match="is stopping"):
        node.mounts.mount(model)
    assert node.mounts.mounted() == []
