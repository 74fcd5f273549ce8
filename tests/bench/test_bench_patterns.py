from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from snapshotter.bench.models import Stored
from snapshotter.bench.patterns import (
    Streams,
    interleaved,
    scattered,
    shared_out,
    shuffled,
    some_layers,
    some_tensors,
    total,
    whole,
)


def covered(streams: Streams) -> dict[int, list[tuple[int, int]]]:
    """Of each file its spans, joined where they touch."""
    files: dict[int, list[tuple[int, int]]] = {}
    for index, offset, length in sorted(span for stream in streams for span in stream):
        spans = files.setdefault(index, [])
        if spans and spans[-1][1] == offset:
            spans[-1] = (spans[-1][0], offset + length)
        else:
            spans.append((offset, offset + length))
    return files


def test_one_reader_takes_file_after_file() -> None:
    assert whole([5, 7]) == [[(0, 0, 5), (1, 0, 7)]]


@given(st.lists(st.integers(16, 10_000), min_size=1, max_size=5), st.integers(1, 16))
def test_readers_together_read_every_byte_once(sizes: list[int], readers: int) -> None:
    streams = shared_out(sizes, readers)
    assert len(streams) >= min(readers, len(sizes))
    assert covered(streams) == {index: [(0, size)] for index, size in enumerate(sizes)}


def test_sixteen_readers_cut_four_files_in_four() -> None:
    assert len(shared_out([100] * 4, 16)) == 16


@given(st.integers(1, 5000), st.integers(1, 6), st.integers(1, 700))
def test_interleaved_streams_read_every_byte_once(size: int, ways: int, block: int) -> None:
    assert covered(interleaved(size, ways, block)) == {0: [(0, size)]}


def test_interleaved_streams_take_turns() -> None:
    (spans,) = interleaved(400, 4, 50)
    assert [offset for _, offset, _ in spans[:5]] == [0, 100, 200, 300, 50]


@given(st.integers(1, 5000), st.integers(1, 700), st.integers(1, 8))
def test_shuffled_blocks_read_every_byte_once(size: int, block: int, threads: int) -> None:
    streams = shuffled(size, block, threads)
    assert len(streams) == threads
    assert covered(streams) == {0: [(0, size)]}


def test_scattered_reads_hit_no_block_twice_while_there_are_enough() -> None:
    (spans,) = scattered(1 << 20, 4096, 256)
    assert sorted(offset for _, offset, _ in spans) == list(range(0, 1 << 20, 4096))


def test_more_scattered_reads_than_blocks_stay_inside_the_file() -> None:
    (spans,) = scattered(8192, 4096, 100)
    assert len(spans) == 100
    assert {offset for _, offset, _ in spans} <= {0, 4096}


def stored(*tensors: tuple[str, int]) -> list[Stored]:
    """One file with these tensors, name and size, one after the other."""
    found = []
    offset = 8
    for name, size in tensors:
        found.append(Stored(offset, size, name))
        offset += size
    return found


def test_some_tensors_come_close_to_their_share_in_file_order() -> None:
    tensors = [stored(*((f"t.{number}", 100) for number in range(100)))] * 2
    streams = some_tensors(tensors, 0.05)
    assert total(streams) == 1000
    assert streams[0] == sorted(streams[0])


def test_one_tensor_at_least_is_chosen() -> None:
    assert total(some_tensors([stored(("only", 100))], 0.01)) == 100


def layers(names: Iterable[str]) -> list[list[Stored]]:
    return [stored(*((f"{name}.{part}.weight", 100) for name in names for part in "abcd"))]


def test_layers_are_chosen_whole() -> None:
    tensors = layers(f"model.layers.{number}" for number in range(20))
    (spans,) = some_layers(tensors, 0.1)
    by_offset = {tensor.offset: tensor.name for tensor in tensors[0]}
    chosen = [by_offset[offset].split(".")[2] for _, offset, _ in spans]
    assert sorted(chosen.count(layer) for layer in set(chosen)) == [4, 4]


def test_experts_are_chosen_rather_than_layers_of_them() -> None:
    tensors = layers(
        f"model.layers.{layer}.mlp.experts.{expert}" for layer in range(5) for expert in range(8)
    )
    (spans,) = some_layers(tensors, 0.025)
    assert len(spans) == 4


def test_tensors_of_no_layer_are_not_taken_for_one() -> None:
    tensors = [stored(("embed.weight", 1000), *((f"blk.{n}.w", 10) for n in range(10)))]
    (spans,) = some_layers(tensors, 0.05)
    assert all(length == 10 for _, _, length in spans)
    assert 3 <= len(spans) <= 7


def test_a_model_without_layers_has_none_to_choose() -> None:
    assert some_layers([stored(("weight", 100))], 0.5) == [[]]
