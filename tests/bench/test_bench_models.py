from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from safetensors import safe_open

from snapshotter.bench.models import (
    read_tensors,
    tensors_of,
    write_gguf_model,
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
    assert spans[-1][0] + spans[-1][1] == path.stat().st_size
    assert all(offset + length == after for (offset, length), (after, _) in pairwise(spans))


@pytest.mark.parametrize("size", [1 << 12, 1 << 20, 16 << 20, 1 << 30])
def test_tensors_of_any_size_add_up(size: int) -> None:
    assert sum(tensor.size for tensor in tensors_of(size, "model")) == pytest.approx(size, rel=0.05)


def test_a_gguf_model_is_one(tmp_path: Path) -> None:
    write_gguf_model(tmp_path / "model", _SIZE)
    data = (tmp_path / "model" / "model-f16.gguf").read_bytes()
    assert len(data) > _SIZE
    index = drive(index_gguf(len(data), "model"), lambda offset, size: data[offset : offset + size])
    assert index.metadata["general.architecture"] == "llama"


def test_many_files_are_as_many_as_asked_for(tmp_path: Path) -> None:
    write_many(tmp_path / "model", 250)
    assert sum(path.is_file() for path in (tmp_path / "model").rglob("*")) == 250
