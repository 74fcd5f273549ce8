"""What it costs to show models in archives, and what is refused of them."""

from __future__ import annotations

import json
import random
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mounts_node import Node, shell
from producers import FILEPATH, METADATA, Artifact, digest, encoded, metadata, tar

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef
from snapshotter.mounts.options import MountOptions
from snapshotter.registry.errors import NotFound
from snapshotter.units import Seconds
from snapshotter.unpack.errors import UnpackError
from snapshotter.unpack.options import UnpackOptions

MakeNode = Callable[..., Node]
TAR = "application/vnd.cncf.model.weight.v1.tar"
GZIP = f"{TAR}+gzip"
END = bytes(1024)


class Sparse:
    """An origin of a blob that is nowhere: pieces at offsets, zeros between them. Counts."""

    def __init__(self, pieces: Sequence[tuple[int, bytes]], size: int) -> None:
        self.name, self.size = "registry.test/model@sha256:sparse", size
        self.requests: list[tuple[int, int]] = []
        self.given: list[int] = []
        self.pieces = pieces
        self.held = threading.Event()
        """Until it is set, bytes from ``free`` on do not come."""
        self.held.set()
        self.free = 0

    @property
    def bytes_asked(self) -> int:
        return sum(end - start for start, end in self.requests)

    @property
    def bytes_given(self) -> int:
        """Less than were asked for where a range was cut off."""
        return sum(self.given)

    def open(self, start: int, end: int) -> Body:
        self.requests.append((start, end))
        return Body(self, start, end)


class Body:
    def __init__(self, origin: Sparse, start: int, end: int) -> None:
        self._origin, self._at, self._end = origin, start, end

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self._end - self._at)
        until(lambda: self._origin.held.is_set() or self._at + count <= self._origin.free)
        buffer[:count] = bytes(count)
        for offset, data in self._origin.pieces:
            first, last = max(offset, self._at), min(offset + len(data), self._at + count)
            if first < last:
                buffer[first - self._at : last - self._at] = data[first - offset : last - offset]
        self._at += count
        self._origin.given.append(count)
        return count

    def close(self) -> None: ...

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *_: object) -> None: ...


def sparse_tar(
    files: Sequence[tuple[str, int]], format: int = tarfile.PAX_FORMAT
) -> tuple[Sparse, dict[str, Any]]:
    """An archive of files that end in their own name, its origin and its layer."""
    pieces, at = [], 0
    for name, size in files:
        member = tarfile.TarInfo(name)
        member.size = size
        header = member.tobuf(format)
        pieces.append((at, header))
        end = at + len(header) + size
        pieces.append((end - len(name), name.encode()))
        at = (end + 511) // 512 * 512
    size = at + len(END)
    layer = {"mediaType": TAR, "digest": _digest_of(pieces, size), "size": size, "annotations": {}}
    return Sparse(pieces, size), layer


def _digest_of(pieces: Sequence[tuple[int, bytes]], size: int) -> str:
    if size > 64 << 20:
        return digest_of(repr(pieces).encode())  # nobody fetches all of it, or hashes it
    content = bytearray(size)
    for offset, data in pieces:
        content[offset : offset + len(data)] = data
    return digest_of(content)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


Shows = Callable[..., ModelRef]


@pytest.fixture
def shows(monkeypatch: pytest.MonkeyPatch) -> Shows:
    """Makes a model known to a node, its blobs from origins; no registry is asked."""

    def known(
        node: Node, layers: Sequence[dict[str, Any]], origins: dict[str, Any], config: bytes = b"{}"
    ) -> ModelRef:
        artifact = Artifact(config)
        artifact.layers = list(layers)
        raw = artifact.manifest()
        node.documents.put(digest_of(raw), raw)
        node.documents.put(digest_of(config), config)

        def origin(registry: str, repository: str, descriptor: Descriptor) -> Any:
            if descriptor.digest not in origins:
                raise NotFound(f"{descriptor.digest}: 404", status=404)
            return origins[descriptor.digest]

        monkeypatch.setattr(node.registry, "origin", origin)
        return ModelRef("registry.test", "model", digest_of(raw))

    return known


def whole(data: bytes) -> Sparse:
    return Sparse([(0, data)], len(data))


def layer_of(
    media_type: str, data: bytes, path: str | None = None, **annotations: str
) -> dict[str, Any]:
    named = {} if path is None else {FILEPATH: path}
    return {
        "mediaType": media_type,
        "digest": digest(data),
        "size": len(data),
        "annotations": named | annotations,
    }


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_tar_of_one_file_over_8_gib_costs_two_small_requests(
    make_node: MakeNode, shows: Shows, format: int
) -> None:
    node = make_node(background=False)
    size = (10 << 30) + 77
    origin, layer = sparse_tar([("model.bin", size)], format)
    ref = shows(node, [layer], {layer["digest"]: origin})
    directory = node.mounts.mount(ref)
    assert len(origin.requests) == 2
    assert origin.bytes_asked <= 128 << 10
    assert shell(f"stat -c %s {directory}/model.bin").stdout == f"{size}\n".encode()
    assert shell(f"tail -c 9 {directory}/model.bin").stdout == b"model.bin"
    assert origin.bytes_asked <= 16 << 20  # the kernel reads ahead, and we a little


def test_a_tar_of_many_small_files_is_read_in_large_steps(node: Node, shows: Shows) -> None:
    origin, layer = sparse_tar([(f"d/{n}.txt", 700) for n in range(5000)])
    directory = node.mounts.mount(shows(node, [layer], {layer["digest"]: origin}))
    assert len(origin.requests) <= 40
    assert origin.bytes_asked <= origin.size
    assert shell(f"tail -c 10 {directory}/d/4999.txt").stdout == b"d/4999.txt"


def test_a_tar_of_files_of_some_size_is_not_fetched_whole_to_know_their_names(
    node: Node, shows: Shows
) -> None:
    origin, layer = sparse_tar([(f"{n}.bin", 8 << 20) for n in range(100)])
    directory = node.mounts.mount(shows(node, [layer], {layer["digest"]: origin}))
    assert len(origin.requests) <= 102
    assert origin.bytes_asked <= 102 * (64 << 10)
    assert shell(f"ls {directory} | wc -l").stdout.strip() == b"100"


def test_a_model_of_many_tars_is_indexed_and_shown_again_without_a_request(
    make_node: MakeNode, shows: Shows
) -> None:
    node = make_node()
    made = [sparse_tar([(f"shard-{n}.bin", 3 << 20)]) for n in range(40)]
    layers = [layer for _, layer in made]
    ref = shows(node, layers, {layer["digest"]: origin for origin, layer in made})
    assert len(list(node.mounts.mount(ref).iterdir())) == 40
    assert all(len(origin.requests) == 2 for origin, _ in made)
    node = make_node()
    quiet = {layer["digest"]: Sparse(origin.pieces, origin.size) for origin, layer in made}
    shows(node, layers, quiet)
    assert len(list(node.mounts.mount(ref).iterdir())) == 40
    assert not any(origin.requests for origin in quiet.values())


def test_an_index_that_was_damaged_is_read_again(
    make_node: MakeNode, shows: Shows, tmp_path: Path
) -> None:
    origin, layer = sparse_tar([("a.bin", 5 << 20)])
    node = make_node()
    ref = shows(node, [layer], {layer["digest"]: origin})
    node.mounts.mount(ref)
    (kept,) = (path for path in (tmp_path / "cache" / "indexes").rglob("*") if path.is_file())
    kept.write_bytes(kept.read_bytes().replace(b"a.bin", b"b.bin"))
    node = make_node()
    shows(node, [layer], {layer["digest"]: origin})
    assert [path.name for path in node.mounts.mount(ref).iterdir()] == ["a.bin"]


# Rules, through a real mount


def linked() -> bytes:
    soft, hard = tarfile.TarInfo("d/soft"), tarfile.TarInfo("hard")
    soft.type, soft.linkname = tarfile.SYMTYPE, "../a"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a"
    return tar({"a": b"content", "d/soft": soft, "hard": hard})


def test_links_are_refused_by_default_and_lead_to_their_files_where_allowed(
    make_node: MakeNode, shows: Shows
) -> None:
    data = linked()
    node = make_node()
    ref = shows(node, [layer_of(TAR, data)], {digest(data): whole(data)})
    with pytest.raises(ArtifactError, match=r"layer 1 of 1 .*'d/soft' is a symbolic link"):
        node.mounts.mount(ref)
    node = make_node(MountOptions(allow_links=True, prefetch=False))
    shows(node, [layer_of(TAR, data)], {digest(data): whole(data)})
    directory = node.mounts.mount(ref)
    assert shell(f"cat {directory}/d/soft {directory}/hard").stdout == b"content" * 2
    assert shell(f"readlink {directory}/d/soft").stdout == b"../a\n"


def test_leading_parents_are_refused_by_default_and_stripped_where_set(
    make_node: MakeNode, shows: Shows
) -> None:
    data = b"weights"
    layers = [layer_of("application/vnd.cncf.model.weight.v1.raw", data, "../../w/a.bin")]
    node = make_node()
    ref = shows(node, layers, {digest(data): whole(data)})
    with pytest.raises(ArtifactError, match=r"'\.\./\.\./w/a.bin' is refused"):
        node.mounts.mount(ref)
    node = make_node(MountOptions(strip_parents=True, prefetch=False))
    shows(node, layers, {digest(data): whole(data)})
    assert shell(f"cat {node.mounts.mount(ref)}/w/a.bin").stdout == data


def test_a_model_without_a_file_is_never_an_empty_directory(
    node: Node, shows: Shows, tmp_path: Path
) -> None:
    data = encoded(tar({"only/": b""}), "tar+gzip")
    ref = shows(node, [layer_of(GZIP, data)], {digest(data): whole(data)})
    with pytest.raises(ArtifactError, match="has no file in its 1 layers: nothing to mount"):
        node.mounts.mount(ref)
    assert list((tmp_path / "mounts").iterdir()) == []


def test_the_inodes_of_a_model_are_the_same_on_every_mount(
    make_node: MakeNode, shows: Shows
) -> None:
    members = {f"d{n % 7}/{n}.txt": f"{n}".encode() for n in range(50)}
    data, packed = tar(members), encoded(tar({"z/last": b"1", "b/first": b"2"}), "tar+zstd")
    layers = [layer_of(TAR, data), layer_of(f"{TAR}+zstd", packed)]
    seen = []
    for _ in range(2):
        node = make_node()
        ref = shows(node, layers, {digest(data): whole(data), digest(packed): whole(packed)})
        seen.append(shell(f"cd {node.mounts.mount(ref)} && find . -printf '%i %p\\n'").stdout)
    assert seen[0] == seen[1]


# Compressed layers


def one_file(data: bytes, *, wrong: bool = False) -> tuple[Sparse, dict[str, Any]]:
    """A layer that says it is one file of ``data``, of which only the beginning comes."""
    packed = encoded(tar({"model.bin": data}), "tar+gzip")
    origin = whole(packed)
    origin.held.clear()
    origin.free = 2 << 20
    layer = layer_of(GZIP, packed, "w/model.bin", **{METADATA: metadata("model.bin", len(data))})
    if wrong:
        layer["digest"] = digest(b"another blob")
    return origin, layer


def test_a_compressed_layer_of_one_file_is_mounted_before_its_end_came(
    node: Node, shows: Shows
) -> None:
    data = random.Random(7).randbytes(4 << 20)
    origin, layer = one_file(data)
    directory = node.mounts.mount(shows(node, [layer], {layer["digest"]: origin}))
    (serving,) = node.mounts.mounted()
    (unpacked,) = serving.model.unpacked.values()
    assert shell(f"head -c 4096 {directory}/w/model.bin").stdout == data[:4096]
    assert not unpacked.done
    origin.held.set()
    assert shell(f"cat {directory}/w/model.bin").stdout == data
    until(lambda: unpacked.done)
    described = serving.describe()
    assert described["size_bytes"] == described["present_bytes"] == origin.size
    assert described["unpacked_bytes"] > len(data)
    assert described["state"] == "verified"


def test_a_mount_that_waits_too_long_for_names_fails_and_the_next_attempt_does_not(
    make_node: MakeNode, shows: Shows
) -> None:
    data = encoded(tar({"a": b"1", "b": b"2"}), "tar+gzip")
    origin = whole(data)
    origin.held.clear()
    node = make_node(unpack=UnpackOptions(mount_wait=Seconds(0.05)))
    ref = shows(node, [layer_of(GZIP, data)], {digest(data): origin})
    with pytest.raises(UnpackError, match=r"layer 1 of 1 .*mount_wait in \[unpack\]"):
        node.mounts.mount(ref)
    origin.held.set()
    while True:  # unpacked on meanwhile, and known when it is done
        try:
            directory = node.mounts.mount(ref)
            break
        except UnpackError:
            pass
    assert shell(f"cat {directory}/a {directory}/b").stdout == b"12"


def test_a_wrong_diff_id_of_the_config_is_an_error_of_the_mount(node: Node, shows: Shows) -> None:
    data = encoded(tar({"a": b"1", "b": b"2"}), "tar+gzip")
    config = json.dumps({"modelfs": {"type": "layers", "diffIds": [digest(b"other")]}}).encode()
    ref = shows(node, [layer_of(GZIP, data)], {digest(data): whole(data)}, config)
    with pytest.raises(ArtifactError, match=r"layer 1 of 1 .*model's config says"):
        node.mounts.mount(ref)


def test_pages_of_a_compressed_layer_that_came_wrong_are_not_shown_any_more(
    node: Node, shows: Shows
) -> None:
    data = random.Random(8).randbytes(4 << 20)
    origin, layer = one_file(data, wrong=True)
    directory = node.mounts.mount(shows(node, [layer], {layer["digest"]: origin}))
    (serving,) = node.mounts.mounted()
    assert shell(f"head -c 4096 {directory}/w/model.bin").stdout == data[:4096]
    origin.held.set()
    until(lambda: serving.describe()["state"] == "bad")
    until(lambda: b"Input/output error" in shell(f"head -c 9 {directory}/w/model.bin").stderr)
