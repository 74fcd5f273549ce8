"""Files that are left out: not shown, and not fetched."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from mounts_node import Node, shell
from producers import CNCF, PRODUCERS, digest, encoded, metadata, tar
from registry_process import RegistryProcess
from test_mounts_archives import GZIP, TAR, layer_of, shows, until, whole  # noqa: F401
from test_mounts_producers import found_in, push

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.selection import Selection
from snapshotter.images.resolve import resolve_model
from snapshotter.mounts.options import ModelChoice, MountOptions
from snapshotter.registry.reference import Reference

MakeNode = Callable[..., Node]
RAW, DOC = f"{CNCF}weight.v1.raw", f"{CNCF}doc.v1.raw"
ON_DEMAND = MountOptions(prefetch=False)


def noise(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def asking(ref: ModelRef, *patterns: str) -> ModelRef:
    return ModelRef(ref.registry, ref.repository, ref.digest, Selection(exclude=patterns))


def raws(**files: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    layers = [
        layer_of(DOC if name.endswith("_txt") else RAW, data, name.replace("_", "."))
        for name, data in files.items()
    ]
    return layers, {digest(data): whole(data) for data in files.values()}


def test_a_file_that_is_left_out_is_not_fetched_when_the_model_is_completed(
    make_node: MakeNode,
    shows: Callable[..., ModelRef],  # noqa: F811
) -> None:
    node = make_node(MountOptions(), background_delay=0.0)
    wanted, other = noise(3 << 20, 1), noise(3 << 20, 2)
    layers, origins = raws(model_safetensors=wanted, pytorch_bin=other, README_md=b"# docs")
    ref = asking(shows(node, layers, origins), "*.bin")
    directory = node.mounts.mount(ref)
    assert names(directory) == ["README.md", "model.safetensors"]
    assert shell(f"cat {directory}/model.safetensors").stdout == wanted
    (serving,) = node.mounts.mounted()
    until(lambda: serving.describe()["state"] == "verified")
    assert origins[digest(other)].requests == []
    assert not node.store.directory(layers[1]["digest"]).exists()
    described = serving.describe()
    assert described["size_bytes"] == described["present_bytes"] == len(wanted) + 6
    assert (described["files"], described["left_out"]) == (2, 1)
    assert described["chosen"] == {"exclude": ["*.bin"]}


@pytest.mark.parametrize("prefetch", [False, True])
def test_of_a_tar_only_what_is_wanted_is_fetched(
    make_node: MakeNode,
    shows: Callable[..., ModelRef],  # noqa: F811
    prefetch: bool,
) -> None:
    node = make_node(MountOptions(prefetch=prefetch), background_delay=0.0)
    files = {
        "a.safetensors": noise(4 << 20, 1),
        "b.bin": noise(8 << 20, 2),
        "c.txt": noise(1 << 20, 3),
        "d.bin": noise(8 << 20, 4),
    }
    data = tar(files)
    origin = whole(data)
    layer = layer_of(TAR, data)
    ref = asking(shows(node, [layer], {layer["digest"]: origin}), "*.bin")
    directory = node.mounts.mount(ref)
    assert names(directory) == ["a.safetensors", "c.txt"]
    assert shell(f"cat {directory}/a.safetensors {directory}/c.txt").stdout == (
        files["a.safetensors"] + files["c.txt"]
    )
    (serving,) = node.mounts.mounted()
    until(lambda: serving.model.loaded.complete)
    described = serving.describe()
    assert described["present_bytes"] == described["size_bytes"] < 6 << 20
    # Headers, and what lies around what was wanted.
    assert origin.bytes_given < (5 << 20) + (512 << 10)
    (blob,) = serving.model.blobs.values()
    at = data.index(files["b.bin"][:100])
    assert not blob.has(at + (1 << 20), at + (1 << 20) + 1)


def test_an_archive_of_documents_is_not_asked_for_a_byte(
    node: Node,
    shows: Callable[..., ModelRef],  # noqa: F811
) -> None:
    weights, docs = noise(1 << 20, 1), tar({"docs/a.md": noise(1 << 20, 2)})
    packed = encoded(docs, "tar+gzip")
    layers = [
        layer_of(RAW, weights, "a.gguf"),
        layer_of(f"{CNCF}doc.v1.tar", docs, "docs"),
        layer_of(f"{CNCF}doc.v1.tar+gzip", packed, "docs"),
    ]
    origins = {layer["digest"]: whole(d) for layer, d in zip(layers, (weights, docs, packed))}  # noqa: B905
    ref = shows(node, layers, origins)
    chosen = Selection(exclude_categories=frozenset({Category.DOC}))
    ref = ModelRef(ref.registry, ref.repository, ref.digest, chosen)
    assert names(node.mounts.mount(ref)) == ["a.gguf"]
    assert all(not origins[digest(data)].requests for data in (docs, packed))


def test_a_compressed_layer_all_of_which_is_left_out_is_let_go_once_its_name_is_known(
    node: Node,
    shows: Callable[..., ModelRef],  # noqa: F811
) -> None:
    weights, other = noise(1 << 20, 1), noise(16 << 20, 2)
    packed = encoded(tar({"model.bin": other}), "tar+gzip")
    origin = whole(packed)
    origin.held.clear()
    origin.free = 1 << 20  # the first piece
    said = metadata("model.bin", len(other))
    layers = [
        layer_of(RAW, weights, "a.gguf"),
        layer_of(GZIP, packed, "w/model.bin", **{"org.cncf.model.file.metadata+json": said}),
    ]
    origins = {digest(weights): whole(weights), digest(packed): origin}
    directory = node.mounts.mount(asking(shows(node, layers, origins), "*.bin"))
    assert names(directory) == ["a.gguf"]
    (serving,) = node.mounts.mounted()
    assert not serving.model.unpacked
    assert shell(f"cat {directory}/a.gguf").stdout == weights
    origin.free = 2 << 20  # the next, which it may be waiting for already
    until(lambda: len(node.fetcher._state.models) == 1)
    origin.held.set()
    until(lambda: not node.fetcher._state.flights)
    assert origin.bytes_given < 8 << 20


def test_when_everything_is_left_out_nothing_is_mounted(
    node: Node,
    shows: Callable[..., ModelRef],  # noqa: F811
    tmp_path: Path,
) -> None:
    layers, origins = raws(a_bin=b"1", b_bin=b"2")
    ref = asking(shows(node, layers, origins), "*.bin")
    with pytest.raises(ArtifactError, match=r"every file of model sha256:.* is left out"):
        node.mounts.mount(ref)
    assert list((tmp_path / "mounts").iterdir()) == []


def test_the_same_model_with_two_choices_is_two_mounts_that_share_their_blobs(
    node: Node,
    shows: Callable[..., ModelRef],  # noqa: F811
) -> None:
    layers, origins = raws(a_safetensors=noise(1 << 20, 1), b_bin=noise(1 << 20, 2))
    ref = shows(node, layers, origins)
    everything, part = node.mounts.mount(ref), node.mounts.mount(asking(ref, "*.bin"))
    assert everything != part
    assert names(everything) == ["a.safetensors", "b.bin"]
    assert names(part) == ["a.safetensors"]
    assert node.mounts.mount(asking(ref, "*.bin")) == part
    for directory in (everything, part):
        assert len(shell(f"cat {directory}/a.safetensors").stdout) == 1 << 20
    assert origins[layers[0]["digest"]].bytes_given == 1 << 20
    node.mounts.release(asking(ref, "*.bin"))
    assert names(everything) == ["a.safetensors", "b.bin"]
    assert not part.exists()


def test_settings_leave_out_of_every_model_or_of_those_of_a_place(
    make_node: MakeNode,
    shows: Callable[..., ModelRef],  # noqa: F811
) -> None:
    layers, origins = raws(a_safetensors=b"1", b_bin=b"2", c_txt=b"3", d_pt=b"4")

    def shown(options: MountOptions, *asked: str) -> list[str]:
        node = make_node(options)
        ref = shows(node, layers, origins)
        return names(node.mounts.mount(asking(ref, *asked)))

    everything = MountOptions(prefetch=False, exclude=("*.bin",), models={})
    assert shown(everything) == ["a.safetensors", "c.txt", "d.pt"]
    assert shown(everything, "*.pt") == ["a.safetensors", "c.txt"]
    assert shown(everything, "!b.bin") == ["a.safetensors", "b.bin", "c.txt", "d.pt"]
    of_place = MountOptions(
        prefetch=False,
        exclude=("*.bin",),
        models={
            "registry.test/model": ModelChoice(exclude=("!b.bin", "*.txt")),
            "registry.test/other": ModelChoice(exclude=("*.pt",)),
        },
    )
    assert shown(of_place) == ["a.safetensors", "b.bin", "d.pt"]
    by_category = MountOptions(prefetch=False, exclude_categories=(Category.WEIGHT,))
    assert shown(by_category) == ["c.txt"]


def test_inodes_are_the_same_on_every_mount_of_a_choice(
    make_node: MakeNode,
    shows: Callable[..., ModelRef],  # noqa: F811
) -> None:
    data = tar({f"d{n % 7}/{n}.{'txt' if n % 3 else 'bin'}": f"{n}".encode() for n in range(50)})
    layer, seen = layer_of(TAR, data), []
    for _ in range(2):
        node = make_node()
        ref = asking(shows(node, [layer], {layer["digest"]: whole(data)}), "*.bin", "d3/")
        seen.append(shell(f"cd {node.mounts.mount(ref)} && find . -printf '%i %p\\n'").stdout)
    assert seen[0] == seen[1]
    assert b".bin" not in seen[0]


EXPECTED: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]] = (
    ("modctl", ("*.md", "/config.json"), ("README.md", "config.json")),
    ("modctl-tar", ("sub/",), ("sub/größe-" + "x" * 110 + ".safetensors",)),
    ("kitops-native-tar-gzip", ("data/", "docs/"), ("data/eval.csv", "docs/guide/README.md")),
    ("aikit", ("unet/",), ("unet/model.safetensors",)),
    ("ollama", ("LICENSE*",), ("LICENSE", "LICENSE-2")),
    ("docker-files", ("vllm/",), ("vllm/config.json", "vllm/tokenizer.json")),
    ("every-type", ("raw.bin",), tuple(f"{c}/raw.bin" for c in
        ("weight", "weight.config", "doc", "code", "dataset"))),
)  # fmt: skip


@pytest.mark.parametrize(("name", "patterns", "gone"), EXPECTED, ids=lambda value: str(value)[:20])
def test_files_of_every_producer_are_left_out_by_the_paths_they_are_shown_under(
    node: Node,
    docker_registry: RegistryProcess,
    name: str,
    patterns: tuple[str, ...],
    gone: tuple[str, ...],
) -> None:
    producer = next(each for each in PRODUCERS if each.name == name)
    reference = Reference.parse(f"{docker_registry.address}/left-out/{name}:1")
    push(node.registry, reference, producer.make())
    ref, _ = resolve_model(reference, node.registry)
    found = found_in(node.mounts.mount(asking(ref, *patterns)))
    files = {path for path, facts in found.items() if facts[0] == "f"}
    assert files == producer.shows.keys() - set(gone)
