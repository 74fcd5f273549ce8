"""Whatever a file of weights says of itself: tensors inside of it, or one error of ours."""

from __future__ import annotations

from fuzzing import changed, damaged, documents, examples, is_for_people
from hypothesis import given
from tensors_files import File, entries, gguf, pair, safetensors, strings

from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.shards import parse_shard_index

HEADER = {"__metadata__": {"format": "pt"}, **entries(a=(0, 8), b=(8, 40), c=(40, 40))}
GGUF = [
    gguf(
        [strings("tokens", ["a", "bc"]),
         pair("general.alignment", "I", 4, 64), pair("n", "Q", 10, 7)],
        [("one", (32, 2), 2, 0), ("two", (8,), 0, 64)], data=300, version=version, order=order,
    )
    for version, order in ((3, "<"), (2, "<"))
]  # fmt: skip
SHARDS = {"metadata": {"total_size": 8}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}


def looked_at(data: bytes, name: str) -> None:
    file = File(data)
    try:
        index = file.index(name)
    except TensorsError as error:
        is_for_people(error)
        return
    finally:
        assert sum(want.length for want in file.asked) <= 3 * len(data) + 1
    for tensor in index.tensors:
        assert index.data_start <= tensor.offset <= tensor.offset + tensor.size <= len(data)


@examples(200)
@given(changed(HEADER))
def test_any_header_of_safetensors_is_read_or_refused(header: object) -> None:
    looked_at(safetensors(header, 40), "m.safetensors")


@examples(200)
@given(damaged(safetensors(HEADER, 40), safetensors({}, 0), safetensors(HEADER, 40)[:60]))
def test_any_damage_to_safetensors_is_seen_or_harmless(data: bytes) -> None:
    looked_at(data, "m.safetensors")


@examples(300)
@given(damaged(*GGUF))
def test_any_damage_to_gguf_is_seen_or_harmless(data: bytes) -> None:
    looked_at(data, "m.gguf")


@given(documents(SHARDS))
def test_any_index_of_shards_is_read_or_refused(raw: bytes) -> None:
    try:
        index = parse_shard_index(raw, "m.index.json")
    except TensorsError as error:
        is_for_people(error)
        return
    assert set(index.shards) == set(index.weight_map.values())
