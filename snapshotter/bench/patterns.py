"""Access patterns: which spans of which files are read, in which order, by how many threads. Pure.

A pattern is a list of streams; each is read by a thread of its own, span after span.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeAlias

from snapshotter.bench.models import Stored

Span: TypeAlias = tuple[int, int, int]
"""Index of the file, offset, length in bytes."""
Streams: TypeAlias = list[list[Span]]


def whole(sizes: Sequence[int]) -> Streams:
    """All files, one after the other, by one reader."""
    return [[(index, 0, size) for index, size in enumerate(sizes)]]


def shared_out(sizes: Sequence[int], readers: int) -> Streams:
    """All files by ``readers`` at once: files are dealt out, and cut where they are too few."""
    if readers <= len(sizes):
        streams: Streams = [[] for _ in range(readers)]
        for index, size in enumerate(sizes):
            streams[index % readers].append((index, 0, size))
        return streams
    cuts = -(-readers // len(sizes))
    return [
        [(index, size * cut // cuts, size * (cut + 1) // cuts - size * cut // cuts)]
        for index, size in enumerate(sizes)
        for cut in range(cuts)
    ]


def interleaved(size: int, ways: int, block: int) -> Streams:
    """One reader that goes forward in ``ways`` places of one file in turns."""
    starts = [size * way // ways for way in range(ways + 1)]
    spans: list[Span] = []
    for step in range(-(-size // (ways * block)) + 1):
        for start, end in pairwise(starts):
            offset = start + step * block
            if offset < end:
                spans.append((0, offset, min(block, end - offset)))
    return [spans]


def shuffled(size: int, block: int, threads: int, seed: int = 1) -> Streams:
    """All of one file in blocks of random order, dealt out to ``threads``."""
    spans = [(0, offset, min(block, size - offset)) for offset in range(0, size, block)]
    random.Random(seed).shuffle(spans)
    return [spans[number::threads] for number in range(threads)]


def scattered(size: int, block: int, count: int, seed: int = 1) -> Streams:
    """``count`` aligned blocks anywhere in one file, by one reader; if possible none twice."""
    blocks = max(1, size // block)
    chooser = random.Random(seed)
    if count <= blocks:
        places = chooser.sample(range(blocks), count)
    else:
        places = [chooser.randrange(blocks) for _ in range(count)]
    return [[(0, place * block, min(block, size)) for place in places]]


def some_tensors(tensors: Sequence[Sequence[Stored]], share: float, seed: int = 1) -> Streams:
    """About ``share`` of all bytes as tensors from anywhere, at random, read in file order."""
    return _some([[span] for span, _ in _spans(tensors)], share, seed)


def some_layers(tensors: Sequence[Sequence[Stored]], share: float, seed: int = 1) -> Streams:
    """About ``share`` of all bytes as whole layers, or experts of layers where there are any.

    At least one; read in file order. Tensors of no layer are left out.
    """
    layers: dict[str, list[Span]] = {}
    for span, name in _spans(tensors):
        if match := _EXPERT.match(name) or _LAYER.match(name):
            layers.setdefault(match[0], []).append(span)
    goal = share * sum(tensor.size for of_file in tensors for tensor in of_file)
    bytes_of_all = sum(_size(spans) for spans in layers.values())
    return _some(list(layers.values()), goal / bytes_of_all, seed) if layers else [[]]


_LAYER = re.compile(r".*?\b(?:layers|blk|h|blocks)\.\d+\.")
_EXPERT = re.compile(_LAYER.pattern + r".*?\bexperts\.\d+\.")


def _some(parts: Sequence[list[Span]], share: float, seed: int) -> Streams:
    goal = share * sum(map(_size, parts))
    chosen: list[Span] = []
    shuffled_parts = random.Random(seed).sample(parts, len(parts))
    for spans in shuffled_parts:
        # Close to the goal: what overshoots by more than it brings nearer stays out.
        had = _size(chosen)
        if abs(had + _size(spans) - goal) < abs(had - goal):
            chosen += spans
    return [sorted(chosen or shuffled_parts[0])]


def _spans(tensors: Sequence[Sequence[Stored]]) -> Iterator[tuple[Span, str]]:
    for index, of_file in enumerate(tensors):
        for tensor in of_file:
            yield (index, tensor.offset, tensor.size), tensor.name


def _size(spans: Sequence[Span]) -> int:
    return sum(length for _, _, length in spans)


def total(streams: Streams) -> int:
    """Bytes of all spans."""
    return sum(length for stream in streams for _, _, length in stream)
