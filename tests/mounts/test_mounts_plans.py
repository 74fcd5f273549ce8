"""What is fetched at a mount and in which order, from lists of files alone."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.categories import is_weights
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.layout import File, Layout
from snapshotter.artifact.mediatypes import Category
from snapshotter.mounts.plans import Plan, Span, blob_order, boundaries, in_order, plan_of
from snapshotter.tensors.index import Tensor, TensorIndex
from snapshotter.tensors.shards import ShardIndex

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
LIMITS = {"file_limit": 32 * MIB, "total_limit": 256 * MIB}


def blob_of(name: str) -> Digest:
    return digest_of(name.encode())


def file(path: str, size: int, *, blob: str = "", offset: int = 0) -> File:
    digest = blob_of(blob or path)
    return File(path, size, 0o444, 0, digest, offset, Category.OTHER, 0)


def layout_of(*files: File, **blobs: int) -> Layout:
    """Files that are their blobs, but for those in one of ``blobs``, which have these sizes."""
    sizes = {file.digest: file.size for file in files}
    sizes |= {blob_of(name): size for name, size in blobs.items()}
    return Layout(
        tuple(sorted(files, key=lambda file: file.path)),
        (),
        tuple(Descriptor("application/x", digest, size) for digest, size in sizes.items()),
    )


def whole(path: str, size: int) -> Span:
    return Span(blob_of(path), 0, size)


def plan(*files: File, **blobs: int) -> Plan:
    return plan_of(layout_of(*files, **blobs), **LIMITS)


def test_a_model_comes_with_its_index_first_then_config_heads_and_small_files() -> None:
    shards = [f"model-{n:05}-of-00002.safetensors" for n in (1, 2)]
    found = plan(
        *(file(name, 4 * GIB) for name in shards),
        file("README.md", 5000),
        file("config.json", 700),
        file("empty.txt", 0),
        file("model.safetensors.index.json", 9000),
        file("tokenizer.json", 20 * MIB),
        file("vision/config.json", 600),
    )
    assert found.spans == (
        whole("model.safetensors.index.json", 9000),
        whole("vision/config.json", 600),
        whole("config.json", 700),
        whole(shards[0], 64 * KIB),
        whole(shards[1], 64 * KIB),
        whole("README.md", 5000),
        Span(blob_of("tokenizer.json"), 0, 16 * MIB),
        Span(blob_of("tokenizer.json"), 16 * MIB, 20 * MIB),
    )
    assert [f.path for f in found.headers] == shards
    assert [f.path for f in found.indexes] == ["model.safetensors.index.json"]


def test_of_weights_whose_format_is_not_known_nothing_is_fetched() -> None:
    assert plan(file("pytorch_model.bin", 4 * GIB), file("model.onnx", 100)).spans == ()


def test_a_head_ends_with_its_file() -> None:
    found = plan(file("tiny.gguf", 1000), file("none.safetensors", 0))
    assert found.spans == (whole("tiny.gguf", 1000),)


def test_large_files_are_not_fetched_and_of_too_many_the_smallest_are() -> None:
    files = [file(f"{n}.json", n * MIB) for n in range(1, 40)]
    spans = plan(*files).spans
    sizes: dict[Digest, int] = {}
    for span in spans:
        sizes[span.digest] = sizes.get(span.digest, 0) + span.end - span.start
    assert sizes == {blob_of(f"{n}.json"): n * MIB for n in range(1, 23)}


def test_a_small_tar_is_fetched_whole() -> None:
    files = [file(f"{n}.json", 100, blob="tar", offset=512 + 1024 * n) for n in range(20)]
    assert plan(*files, tar=40_960).spans == (Span(blob_of("tar"), 0, 40_960),)


def test_a_small_tar_with_weights_is_not() -> None:
    files = (
        file("a.json", 100, blob="tar", offset=512),
        file("b.json", 100, blob="tar", offset=1536),
        file("w.gguf", 10 * MIB, blob="tar", offset=2560),
        file("z.json", 100, blob="tar", offset=11 * MIB),
    )
    assert plan(*files, tar=12 * MIB).spans == (
        Span(blob_of("tar"), 2560, 2560 + 64 * KIB),
        Span(blob_of("tar"), 512, 1636),
        Span(blob_of("tar"), 11 * MIB, 11 * MIB + 100),
    )


def test_no_number_of_weights_makes_a_mount_fetch_without_end() -> None:
    found = plan(*(file(f"{n}.safetensors", GIB) for n in range(5000)))
    assert len(found.spans) == len(found.headers) == 2000


def test_shards_come_as_their_index_lists_them() -> None:
    names = [f"model-{n}.safetensors" for n in range(1, 13)]
    shuffled = random.Random(3).sample(names, len(names))
    index = ShardIndex({f"tensor {n}": name for n, name in enumerate(shuffled)})
    ordered = in_order([file(f"m/{n}", GIB) for n in names], {"m/model.index.json": index})
    assert [f.path for f in ordered] == [f"m/{name}" for name in shuffled]


def test_without_an_index_shards_come_by_their_numbers_in_each_directory() -> None:
    names = ["a10.gguf", "a9.gguf", "b/2.gguf", "b/1.gguf", "a/x.gguf", "a.gguf"]
    ordered = in_order([file(name, GIB) for name in names], {})
    assert [f.path for f in ordered] == [
        "a9.gguf", "a10.gguf", "a.gguf", "a/x.gguf", "b/1.gguf", "b/2.gguf",
    ]  # fmt: skip


def test_an_index_of_one_directory_says_nothing_of_another() -> None:
    files = [file(name, GIB) for name in ("a/1.safetensors", "a/2.safetensors", "b/1.safetensors")]
    index = ShardIndex({"x": "2.safetensors", "y": "1.safetensors", "z": "../b/1.safetensors"})
    ordered = in_order(files, {"a/i.index.json": index})
    assert [f.path for f in ordered] == ["a/2.safetensors", "a/1.safetensors", "b/1.safetensors"]


def test_blobs_are_completed_small_ones_first_then_shards_then_the_rest() -> None:
    layout = layout_of(
        file("a-dataset.parquet", GIB),
        file("model-10.safetensors", GIB),
        file("model-9.safetensors", GIB),
        file("tokenizer.json", MIB),
        file("one.bin", GIB, blob="tar", offset=512),
        file("two.bin", GIB, blob="tar", offset=512 + GIB),
        tar=3 * GIB,
    )
    assert blob_order(layout, {}) == [
        blob_of(name)
        for name in (
            "tokenizer.json", "model-9.safetensors", "model-10.safetensors", "tar",
            "a-dataset.parquet",
        )
    ]  # fmt: skip


def test_tensors_of_a_file_in_a_tar_end_where_they_do_in_the_blob() -> None:
    tensors = (Tensor("a", "U8", (4,), 100, 4), Tensor("b", "U8", (6,), 104, 6))
    index = TensorIndex("safetensors", tensors, 100)
    assert list(boundaries(file("w.safetensors", 200, offset=512), index)) == [612, 616, 622]


@given(
    st.dictionaries(
        st.from_regex(
            r"([a-c]/)?[a-c²0-9]{1,3}(\.json|\.safetensors|\.index\.json|)", fullmatch=True
        ),
        st.integers(0, 100 * MIB),
        max_size=12,
    ),
    st.integers(0, 50 * MIB),
    st.integers(0, 200 * MIB),
)
def test_whatever_the_files_are_plans_stay_in_blobs_and_limits(
    sizes: dict[str, int], file_limit: int, total_limit: int
) -> None:
    layout = layout_of(*(file(path, size) for path, size in sizes.items()))
    found = plan_of(layout, file_limit=file_limit, total_limit=total_limit)
    blobs = {blob.digest: blob.size for blob in layout.blobs}
    assert all(0 <= span.start < span.end <= blobs[span.digest] for span in found.spans)
    heads = {f.digest for f in layout.files if is_weights(f.path, f.size)}
    rest = sum(span.end - span.start for span in found.spans if span.digest not in heads)
    assert rest <= total_limit
    assert {f.digest for f in found.indexes} <= {span.digest for span in found.spans}
    assert sorted(blob_order(layout, {})) == sorted(blobs)
