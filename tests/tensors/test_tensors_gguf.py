from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensors_files import File, gguf, pair, strings, text

from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.index import Array, Tensor

NAME = "model.gguf"
ARCHITECTURE = text("general.architecture") + struct.pack("<I", 8) + text("llama")
VOCABULARY = strings("tokenizer.ggml.tokens", [f"token {n}" for n in range(50_000)])


def test_metadata_and_tensors_are_found() -> None:
    scores = text("scores") + struct.pack("<IIQ2f", 9, 6, 2, 1.0, 2.0)
    nested = text("nested") + struct.pack("<IIQ", 9, 9, 2) + struct.pack("<IQB", 0, 1, 7) * 2
    data = gguf(
        [ARCHITECTURE, scores, nested, pair("deep", "I", 4, 32), pair("yes", "?", 7, True)],
        [("late", (4, 2), 0, 64), ("early", (256, 3), 12, 96)],
        data=600,
    )
    index = File(data).index(NAME)
    start = len(data) - 600
    assert index.format == "gguf"
    assert index.metadata == {
        "general.architecture": "llama", "scores": Array("float32", 2),
        "nested": Array("array", 2), "deep": 32, "yes": True,
    }  # fmt: skip
    assert index.data_start == start
    assert index.tensors == (
        Tensor("late", "F32", (4, 2), start + 64, 32),
        Tensor("early", "Q4_K", (256, 3), start + 96, 432),
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [2, 3])
def test_both_versions_are_read_in_both_byte_orders(version: int, order: str) -> None:
    data = gguf(
        [pair("general.alignment", "I", 4, 64, order)],
        [("a", (10,), 24, 0)],
        data=64,
        version=version,
        order=order,
        alignment=64,
    )
    index = File(data).index(NAME)
    assert index.metadata == {"general.alignment": 64}
    assert index.tensors == (Tensor("a", "I8", (10,), len(data) - 64, 10),)


def test_the_header_is_asked_for_in_growing_steps_that_leave_nothing_out() -> None:
    file = File(gguf([ARCHITECTURE, VOCABULARY], [("a", (1 << 20,), 24, 0)], data=1 << 20))
    index = file.index(NAME)
    assert index.metadata["tokenizer.ggml.tokens"] == Array("string", 50_000)
    end = 0
    for want in file.asked:
        assert want.offset == end
        end += want.length
    assert index.data_start <= end <= 2 * index.data_start
    assert len(file.asked) <= 5


def test_a_type_of_tensors_that_is_not_known_ends_where_the_next_begins() -> None:
    data = gguf(tensors=[("new", (32,), 99, 0), ("a", (32,), 24, 64), ("last", (1,), 98, 96)])
    index = File(data + bytes(128)).index(NAME)
    assert [(t.dtype, t.size) for t in index.tensors] == [
        ("type 99", 64), ("I8", 32), ("type 98", 32),
    ]  # fmt: skip


def test_long_values_are_passed_over() -> None:
    long = text("chat") + struct.pack("<I", 8) + text("x" * (3 << 20))
    file = File(gguf([long, ARCHITECTURE], data=100))
    assert file.index(NAME).metadata == {"general.architecture": "llama"}


def test_metadata_alone_is_a_file() -> None:
    data = gguf([ARCHITECTURE], alignment=1)
    assert File(data).index(NAME).data_start == len(data)


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"GGML\x03\0\0\0", "no GGUF file"),
        (gguf(version=1), "version 1, expected 2 or 3"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "tensors and 0 pairs"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "pairs of metadata"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "truncated"),
        (gguf([text("key") + struct.pack("<IQ", 8, 100)]), "truncated"),
        (gguf([pair("key", "Q", 13, 0)]), "type 13"),
        (gguf([struct.pack("<Q", 1 << 20)]) + bytes(2 << 20), "a name of 1048576 bytes"),
        (gguf([text("k") + struct.pack("<IQ", 8, HUGE)]), "truncated"),
        (gguf([text("k") + struct.pack("<IIQ", 9, 5, HUGE)]), "truncated"),
        (gguf([text("k") + struct.pack("<IIQ", 9, 8, HUGE)]), "strings in GGUF"),
        (gguf([text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 9]), "in arrays"),
        (gguf([pair("general.alignment", "I", 4, 0)]), "alignment is 0"),
        (gguf([pair("general.alignment", "I", 4, 1 << 31)]), "alignment is"),
        (gguf(tensors=[("a", (1,) * 9, 0, 0)], data=8), "9 dimensions"),
        (gguf(tensors=[("a", (HUGE,) * 8, 0, 0)], data=8), "truncated or wrong"),
        (gguf(tensors=[("a", (2,), 0, 1)], data=8), "truncated or wrong"),
        (gguf(tensors=[("a", (2,), 99, 9)], data=8), "truncated or wrong"),
    ],
)
def test_a_file_that_cannot_be_is_an_error_that_names_it(data: bytes, why: str) -> None:
    with pytest.raises(TensorsError, match=rf"^model\.gguf: .*{why}"):
        File(data).index(NAME)


def test_metadata_over_the_limit_is_not_asked_for() -> None:
    file = File(gguf([VOCABULARY], data=2 << 20))
    with pytest.raises(TensorsError, match="of over 100000 bytes is not read"):
        file.index(NAME, header_limit=100_000)
    assert sum(want.length for want in file.asked) == 100_000


_SOUND = gguf(
    [ARCHITECTURE, strings("tokens", ["a", "bc", "def"]), pair("n", "I", 4, 1)],
    [("one", (32, 2), 2, 0), ("two", (8,), 0, 64)],
    data=200,
)


@given(
    st.binary(max_size=200).map(lambda rest: b"GGUF\x03\0\0\0" + rest)
    | st.tuples(
        st.lists(st.tuples(st.integers(8, len(_SOUND) - 1), st.integers(0, 255)), max_size=6),
        st.integers(0, len(_SOUND)),
    ).map(lambda change: _changed(*change))
)
def test_whatever_the_bytes_are_tensors_lie_in_the_file_or_there_is_one_error(data: bytes) -> None:
    try:
        index = File(data).index(NAME)
    except TensorsError:
        return
    for tensor in index.tensors:
        assert index.data_start <= tensor.offset <= tensor.offset + tensor.size <= len(data)


def _changed(changes: list[tuple[int, int]], length: int) -> bytes:
    data = bytearray(_SOUND)
    for place, value in changes:
        data[place] = value
    return bytes(data[:length] if length % 2 else data)
