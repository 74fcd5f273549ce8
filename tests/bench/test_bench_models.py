from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors import safe_open

from snapshotter.bench.models import (
    Tensor,
    decoder,
    read_tensors,
    split,
    tensors_of,
    write_gguf_model,
    write_hollow,
    write_many,
    write_sharded,
    write_single,
)
from snapshotter.tensors.gguf import index_gguf
from snapshotter.tensors.index import drive

_SIZE = 4 << 20


def test_shards_are_what_the_safetensors_library_reads(tmp_path: Path) -> None:
    write_sharded(tmp_path / "model", _SIZE, 4)
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 4
    total = 0
    for name in set(index["weight_map"].values()):
        with safe_open(tmp_path / "model" / name, framework="np") as shard:
            for tensor in shard.keys():  # noqa: SIM118
                assert index["weight_map"][tensor] == name
                total += shard.get_tensor(tensor).nbytes
    assert total == pytest.approx(_SIZE, rel=0.01)


def test_every_shard_has_bytes_of_its_own(tmp_path: Path) -> None:
    write_sharded(tmp_path / "model", _SIZE, 4)
    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len({path.read_bytes()[-4096:] for path in shards}) == 4


def test_tensors_are_found_by_their_header_alone(tmp_path: Path) -> None:
    write_single(tmp_path / "model", _SIZE)
    path = tmp_path / "model" / "model.safetensors"
    spans = read_tensors(path)
    assert spans[-1].offset + spans[-1].size == path.stat().st_size
    assert all(one.offset + one.size == after.offset for one, after in pairwise(spans))


@pytest.mark.parametrize("size", [1 << 12, 1 << 20, 16 << 20, 1 << 30])
def test_tensors_of_any_size_add_up(size: int) -> None:
    assert sum(tensor.size for tensor in tensors_of(size, "model")) == pytest.approx(size, rel=0.05)


def test_a_decoder_has_the_sizes_of_a_real_one() -> None:
    sizes = {tensor.size for tensor in decoder(32, 4096)}
    assert min(sizes) == 8 << 10
    assert {size >> 20 for size in sizes} == {0, 8, 32, 112, 1024}
    assert sum(tensor.size for tensor in decoder(32, 4096)) / 2 == pytest.approx(8e9, rel=0.1)


def test_a_hollow_model_takes_no_disk_and_has_the_tensors_in_its_header(tmp_path: Path) -> None:
    tensors = decoder(4, 512)
    write_hollow(tmp_path / "model", tensors, 4)
    shards = sorted((tmp_path / "model").iterdir())
    found = [tensor for path in shards for tensor in read_tensors(path)]
    assert [(each.name, each.size) for each in found] == [(t.name, t.size) for t in tensors]
    assert sum(path.stat().st_size for path in shards) > sum(tensor.size for tensor in tensors)
    assert sum(path.stat().st_blocks * 512 for path in shards) < 100_000


def test_shards_are_of_about_the_same_size() -> None:
    shards = split([Tensor(str(number), (100,)) for number in range(10)], 4)
    assert [len(shard) for shard in shards] == [3, 2, 3, 2]


def test_a_gguf_model_is_one(tmp_path: Path) -> None:
    write_gguf_model(tmp_path / "model", _SIZE)
    data = (tmp_path / "model" / "model-f16.gguf").read_bytes()
    assert len(data) > _SIZE
    index = drive(index_gguf(len(data), "model"), lambda offset, size: data[offset : offset + size])
    assert index.metadata["general.architecture"] == "llama"


def test_many_files_are_as_many_as_asked_for(tmp_path: Path) -> None:
    write_many(tmp_path / "model", 250)
    assert sum(path.is_file() for path in (tmp_path / "model").rglob("*")) == 250
