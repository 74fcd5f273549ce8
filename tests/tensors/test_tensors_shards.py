from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.formats import indexer_of
from snapshotter.tensors.shards import parse_shard_index


def test_shards_are_in_the_order_of_their_first_tensors() -> None:
    weight_map = {"embed": "2.safetensors", "layer.0": "1.safetensors", "head": "2.safetensors"}
    document = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    index = parse_shard_index(json.dumps(document).encode(), "index")
    assert index.shards == ("2.safetensors", "1.safetensors")
    assert index.weight_map == weight_map


@pytest.mark.parametrize(
    "raw", [b"", b"{}", b"[]", b'{"weight_map": {"a": 1}}', b'{"weight_map": {"\xff": "a"}}']
)
def test_what_is_no_index_is_an_error_that_names_it(raw: bytes) -> None:
    with pytest.raises(TensorsError, match=r"^m\.index\.json: no index of shards"):
        parse_shard_index(raw, "m.index.json")


def test_an_index_larger_than_any_is_not_parsed() -> None:
    with pytest.raises(TensorsError, match="larger than any"):
        parse_shard_index(b"[" + b"1," * 2_000_001, "index")


@given(st.binary(max_size=100).map(lambda rest: b'{"weight_map":' + rest))
def test_no_index_is_too_broken_to_be_looked_at(raw: bytes) -> None:
    try:
        parse_shard_index(raw, "index")
    except TensorsError:
        pass


def test_formats_are_known_by_their_names() -> None:
    assert indexer_of("a/model.SafeTensors") is not None
    assert indexer_of("x.Q4_K_M.gguf") is not None
    for name in ("pytorch_model.bin", "model.safetensors.index.json", "gguf", "a.gguf/readme"):
        assert indexer_of(name) is None
