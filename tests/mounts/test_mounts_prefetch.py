"""What a mount fetches by itself, in bytes and requests, against a real registry."""

from __future__ import annotations

import json
import os
import struct
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from mounts_node import Node, shell
from registry_process import RegistryProcess

from snapshotter.artifact.layout import File
from snapshotter.artifact.marker import ModelRef
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.mounts.options import MountOptions
from snapshotter.mounts.serving import Serving
from snapshotter.pack.build import build
from snapshotter.pack.push import push
from snapshotter.pack.record import BuildStore
from snapshotter.registry.reference import Reference
from snapshotter.units import ByteSize, Seconds

KIB, MIB = 1 << 10, 1 << 20
ON = MountOptions()
QUIET = {"background": False}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def _safetensors(tensors: int, size: int) -> bytes:
    header = {
        f"layer.{n}.{'x' * 60}": {
            "dtype": "U8",
            "shape": [size],
            "data_offsets": [n * size, (n + 1) * size],
        }
        for n in range(tensors)
    }
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + os.urandom(tensors * size)


def _gguf(tokens: int, size: int) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 1)
    head += text("tokens") + struct.pack("<IIQ", 9, 8, tokens)
    head += b"".join(text(f"token {n}") for n in range(tokens))
    head += text("weight") + struct.pack("<IQIQ", 1, size, 24, 0)
    return head + bytes(-len(head) % 32) + os.urandom(size)


WEIGHTS = {
    SHARDS[0]: _safetensors(10, 100 * KIB),
    SHARDS[1]: _safetensors(4000, 1000),  # a header of more than one read
    "other/model.gguf": _gguf(20_000, 3 * MIB),  # and one of several
}
SMALL = {
    "config.json": b'{"model_type": "test"}',
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": SHARDS[1], "b": SHARDS[0]}}
    ).encode(),
    "tokenizer.json": os.urandom(300_000),
    "README.md": b"# A model\n",
}
ONLY_WEIGHTS = (SHARDS[0], SHARDS[1], "other/model.gguf")


def _push(
    directory: Path, registry: RegistryProcess, node: Node, files: Mapping[str, bytes], tar: bool
) -> ModelRef:
    for name, data in files.items():
        path = directory / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    reference = Reference.parse(f"{registry.address}/prefetch/{directory.name}:1")
    store = BuildStore(directory / "builds")
    built = build(directory / "source", reference, store, tar=tar)
    push(reference, store, node.registry)
    return ModelRef(reference.registry, reference.repository, built.digest)


@pytest.fixture(params=[False, True], ids=["raw", "tar"])
def tar(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def _settled(node: Node) -> Serving:
    """The one model mounted, once nothing more is asked for and nothing is on its way."""
    (serving,) = node.mounts.mounted()
    assert serving.prefetch.settled.wait(60)
    _until(lambda: not serving.model.loaded.prefetch and not node.fetcher._busy())
    return serving


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _file(serving: Serving, path: str) -> File:
    return next(file for file in serving.model.layout.files if file.path == path)


def _has(serving: Serving, path: str, size: int) -> bool:
    file = _file(serving, path)
    return serving.model.blobs[file.digest].has(file.offset, file.offset + size)


def _header(path: str) -> int:
    """Bytes before the tensors of one of WEIGHTS."""
    sizes = {SHARDS[0]: 1000 * KIB, SHARDS[1]: 4_000_000, "other/model.gguf": 3 * MIB}
    return len(WEIGHTS[path]) - sizes[path]


def test_small_files_and_headers_arrive_without_a_read_and_nothing_else_does(
    make_node, docker_registry: RegistryProcess, tmp_path: Path, tar: bool
) -> None:
    node = make_node(ON, **QUIET)
    node.mounts.mount(_push(tmp_path, docker_registry, node, {**WEIGHTS, **SMALL}, tar))
    serving = _settled(node)
    for path, data in SMALL.items():
        assert _has(serving, path, len(data)), path
    headers = 0
    for path in ONLY_WEIGHTS:
        assert _has(serving, path, _header(path)), path
        headers += max(64 * KIB, _header(path))
    small = sum(map(len, SMALL.values()))
    # Requests begin at multiples of 64 KiB, the last step into GGUF's metadata is as
    # long as all before it, and a tar has headers of its own.
    most = small + headers + _header("other/model.gguf") + len(ONLY_WEIGHTS) * 128 * KIB
    assert node.fetcher.stats.fetched_bytes <= most
    for path in ONLY_WEIGHTS:
        assert not _has(serving, path, len(WEIGHTS[path]))
    if not tar:
        # One a small file, one to three a header.
        assert node.fetcher.stats.requests <= len(SMALL) + 2 + 2 + 5


def test_tensors_and_the_order_of_shards_are_told_to_the_fetcher(
    make_node, docker_registry: RegistryProcess, tmp_path: Path, tar: bool
) -> None:
    node = make_node(ON, **QUIET)
    node.mounts.mount(_push(tmp_path, docker_registry, node, {**WEIGHTS, **SMALL}, tar))
    serving = _settled(node)
    order = [download.blob.digest for download in serving.model.loaded.remaining]
    wanted = [_file(serving, path).digest for path in (SHARDS[1], SHARDS[0], "other/model.gguf")]
    assert [digest for digest in order if digest in wanted] == wanted
    shard = _file(serving, SHARDS[0])
    (pieces,) = [
        download.pieces
        for download in serving.model.loaded.origins
        if download.blob.digest == shard.digest
    ]
    start = shard.offset + _header(SHARDS[0])
    assert list(pieces) == [start + n * 100 * KIB for n in range(11)]


def test_a_mount_nobody_reads_is_not_completed(
    make_node, docker_registry: RegistryProcess, tmp_path: Path
) -> None:
    node = make_node(ON, background_delay=Seconds(0))
    node.mounts.mount(_push(tmp_path, docker_registry, node, {**WEIGHTS, **SMALL}, False))
    serving = _settled(node)
    assert serving.describe()["present_bytes"] < 3 * MIB
    shell(f"head -c 1 {serving.directory}/config.json")
    _until(lambda: serving.describe()["state"] in ("complete", "verified"))


def test_what_is_switched_off_fetches_nothing(
    make_node, docker_registry: RegistryProcess, tmp_path: Path
) -> None:
    node = make_node(MountOptions(prefetch=False), **QUIET)
    node.mounts.mount(_push(tmp_path, docker_registry, node, {**WEIGHTS, **SMALL}, False))
    _settled(node)
    assert node.fetcher.stats.requests == 0


def test_files_over_the_limit_are_left_to_their_readers(
    make_node, docker_registry: RegistryProcess, tmp_path: Path
) -> None:
    node = make_node(MountOptions(prefetch_file=ByteSize(100_000)), **QUIET)
    node.mounts.mount(_push(tmp_path, docker_registry, node, SMALL | {"w.gguf": b"GGUF"}, False))
    serving = _settled(node)
    assert not _has(serving, "tokenizer.json", 1)
    assert _has(serving, "README.md", len(SMALL["README.md"]))


def test_headers_that_are_none_harm_nothing(
    make_node, docker_registry: RegistryProcess, tmp_path: Path, tar: bool
) -> None:
    node = make_node(ON, **QUIET)
    broken = {f"{n}.safetensors": b"\xff" * 9 + bytes([n]) for n in range(50)}
    broken |= {f"{n}.gguf": bytes([n]) for n in range(50)} | {"empty.gguf": b""}
    broken |= {"model.safetensors.index.json": b"[" * 10_000, "config.json": b"{}"}
    directory = node.mounts.mount(_push(tmp_path, docker_registry, node, broken, tar))
    _settled(node)
    compared = shell(f"diff -r {tmp_path / 'source'} {directory}")
    assert (compared.returncode, compared.stdout) == (0, b"")


def test_a_registry_that_is_gone_ends_it_and_the_mount_stays(
    make_node, docker_registry: RegistryProcess, tmp_path: Path
) -> None:
    first = make_node(MountOptions(prefetch=False), **QUIET)
    model = _push(tmp_path, docker_registry, first, {**WEIGHTS, **SMALL}, False)
    first.mounts.mount(model)
    node = make_node(ON, read_deadline=Seconds(0.5), **QUIET)
    node.registry.close()
    directory = node.mounts.mount(model)
    (serving,) = node.mounts.mounted()
    assert serving.prefetch.settled.wait(60)
    assert (directory / "config.json").stat().st_size == len(SMALL["config.json"])


def test_a_second_mount_asks_for_nothing_that_is_there(
    make_node, docker_registry: RegistryProcess, tmp_path: Path, tar: bool
) -> None:
    node = make_node(ON, **QUIET)
    model = _push(tmp_path, docker_registry, node, {**WEIGHTS, **SMALL}, tar)
    node.mounts.mount(model)
    _settled(node)
    node.mounts.release(model)
    _until(lambda: not node.mounts.mounted())
    before = node.fetcher.stats.requests
    node.mounts.mount(model)
    _settled(node)
    assert node.fetcher.stats.requests == before


def test_no_thread_waits_for_bytes_that_do_not_come(
    make_node, docker_registry: RegistryProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(ON, **QUIET)
    model = _push(tmp_path, docker_registry, node, {**WEIGHTS, **SMALL}, False)
    asked = threading.Event()
    monkeypatch.setattr(Fetcher, "bring", lambda *_, **__: asked.set())
    node.mounts.mount(model)
    assert asked.wait(60)
    _until(lambda: not [t for t in threading.enumerate() if t.name == "modelpack-prefetch"])
    (serving,) = node.mounts.mounted()
    assert not serving.prefetch.settled.is_set()
