"""Access patterns: which spans of which files are read, in which order, by how many threads. Pure.

A pattern is a list of streams; each is read by a thread of its own, span after span.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

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


def some_tensors(
    tensors: Sequence[Sequence[tuple[int, int]]], share: float, seed: int = 1
) -> tuple[Streams, int]:
    """About ``share`` of all bytes as whole tensors, and how many bytes that is.

    ``tensors``: of each file, (offset, length) of each tensor. Chosen evenly at random and
    read in file order, as somebody who wants one expert or one adapter does.
    """
    every = [(index, *tensor) for index, of_file in enumerate(tensors) for tensor in of_file]
    goal = share * sum(length for _, _, length in every)
    chosen: list[Span] = []
    needed = 0
    for span in random.Random(seed).sample(every, len(every)):
        # Close to the goal: a tensor that overshoots by more than it brings nearer stays out.
        if abs(needed + span[2] - goal) < abs(needed - goal):
            chosen.append(span)
            needed += span[2]
    return [sorted(chosen)], needed


def total(streams: Streams) -> int:
    """Bytes of all spans."""
    return sum(length for stream in streams for _, _, length in stream)
