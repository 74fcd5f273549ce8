from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tensors_files import File, entries, safetensors

from snapshotter.artifact.tar import Want
from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.index import Tensor

NAME = "model.safetensors"


def test_tensors_lie_where_the_reference_implementation_puts_them(tmp_path: Path) -> None:
    arrays = {
        "b": numpy.arange(12, dtype=numpy.float32).reshape(3, 4),
        "a": numpy.arange(5, dtype=numpy.int16),
        "none": numpy.zeros((0, 7), numpy.float16),
    }
    save_file(arrays, tmp_path / NAME, metadata={"format": "np"})
    file = File((tmp_path / NAME).read_bytes())
    index = file.index(NAME)
    assert index.metadata == {"format": "np"}
    assert {t.name: (t.dtype, t.shape) for t in index.tensors} == {
        "a": ("I16", (5,)), "b": ("F32", (3, 4)), "none": ("F16", (0, 7)),
    }  # fmt: skip
    for tensor in index.tensors:
        stored = file.data[tensor.offset : tensor.offset + tensor.size]
        assert stored == arrays[tensor.name].tobytes()
    assert [t.offset for t in index.tensors] == sorted(t.offset for t in index.tensors)
    assert index.tensors[0].offset == index.data_start


def test_a_header_is_had_in_two_reads_whatever_its_size() -> None:
    names = {f"layer.{n}.{'x' * 100}": (n, n + 1) for n in range(5000)}
    file = File(safetensors(entries(**names), 1_000_000))
    index = file.index(NAME)
    assert len(index.tensors) == 5000
    assert file.asked == [Want(0, 65536), Want(65536, index.data_start - 65536)]


def test_a_small_file_is_had_in_one_read() -> None:
    file = File(safetensors(entries(a=(0, 10)), 10))
    start = len(file.data) - 10
    assert file.index(NAME).tensors == (Tensor("a", "U8", (10,), start, 10),)
    assert file.asked == [Want(0, len(file.data))]


def test_holes_overlaps_and_odd_shapes_are_none_of_our_business() -> None:
    header = {**entries(b=(4, 8), a=(0, 6), c=(20, 30)), "x": {**entries(x=(0, 0))["x"], "more": 1}}
    index = File(safetensors(header, 40)).index(NAME)
    assert [t.name for t in index.tensors] == ["x", "a", "b", "c"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x01\x00", "begins with 8 bytes"),
        (struct.pack("<Q", 1 << 63) + b"{}", "truncated"),
        (struct.pack("<Q", 3) + b"{}", "truncated"),
        (safetensors(b""), "malformed"),
        (safetensors(b"[]"), "malformed"),
        (safetensors(b'{"a": 1}'), "malformed"),
        (safetensors(b'{"a\xff": {}}'), "malformed"),
        (safetensors(b"[" * 100_000), "malformed"),
        (safetensors(b'{"a":' * 10_000), "malformed"),
        (safetensors({"__metadata__": {"a": 1}}), "malformed"),
        (safetensors({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, 0]}}), "malformed"),
        (safetensors({"a": {"dtype": "U8", "shape": [1] * 65, "data_offsets": [0, 1]}}, 1), "mal"),
        (safetensors({"a": {"dtype": "U8", "shape": [], "data_offsets": [0]}}), "malformed"),
        (safetensors(entries(a=(0, 11)), 10), "truncated or wrong"),
        (safetensors(entries(a=(9, 8)), 10), "truncated or wrong"),
        (safetensors(b"{" + b",".join([b'"a":1'] * 3_000_000) + b"}"), "more than 250000 tensors"),
    ],
)
def test_a_header_that_cannot_be_is_an_error_that_names_the_file(data: bytes, why: str) -> None:
    with pytest.raises(TensorsError, match=rf"^model\.safetensors: .*{why}"):
        File(data).index(NAME)


def test_a_header_over_the_limit_is_not_asked_for() -> None:
    file = File(safetensors(b" " * 100_000 + b"{}"))
    assert file.index(NAME).tensors == ()
    file.asked.clear()
    with pytest.raises(TensorsError, match="at most 99999 are read"):
        file.index(NAME, header_limit=99_999)
    assert file.asked == [Want(0, 65536)]


_scraps = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]), inner
        )
    ),
    max_leaves=8,
)


@given(
    st.binary(max_size=300)
    | _scraps.map(lambda value: safetensors(json.dumps(value).encode(), 8))
    | st.dictionaries(st.text(max_size=3), st.tuples(st.integers(), st.integers())).map(
        lambda spans: safetensors(
            {
                name: {"dtype": "U8", "shape": [1], "data_offsets": list(span)}
                for name, span in spans.items()
            },
            8,
        )
    )
)
def test_whatever_the_bytes_are_tensors_lie_in_the_file_or_there_is_one_error(data: bytes) -> None:
    file = File(data)
    try:
        index = file.index(NAME)
    except TensorsError:
        return
    for tensor in index.tensors:
        assert index.data_start <= tensor.offset <= tensor.offset + tensor.size <= len(data)
