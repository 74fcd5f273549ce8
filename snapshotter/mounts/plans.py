"""What of a model is fetched before anybody reads it, and in which order the rest.

Pure: from the list of files, and from what their headers say, to ranges of blobs.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from snapshotter.artifact.categories import is_weights
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.layout import File, Layout
from snapshotter.artifact.names import basename
from snapshotter.cache.ranges import RangeSet
from snapshotter.tensors.formats import indexer_of
from snapshotter.tensors.index import FIRST_READ, TensorIndex
from snapshotter.tensors.shards import INDEX_LIMIT, SUFFIX, ShardIndex

_GAP = 64 << 10
"""Files of a tar that lie no further apart are fetched in one range."""
_RANGE = 16 << 20
_HEADERS = 2000
"""Files whose headers are read; a model of more is none that is read forward."""
_SIDE = 64 << 20
"""A blob of other files than weights that is larger comes after all weights."""
_NUMBER = re.compile(r"([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes ``[start, end)`` of a blob; never empty."""

    digest: Digest
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is fetched once a model is mounted."""

    spans: tuple[Span, ...]
    """In this order; of each header only the first bytes, for how long it is stands there."""
    indexes: tuple[File, ...]
    """Files that say which shards there are; all of them are in ``spans``."""
    headers: tuple[File, ...]
    """Weights whose header says where their tensors are, in the order of shards."""


def plan_of(layout: Layout, *, file_limit: int, total_limit: int) -> Plan:
    """What to fetch of a model that is about to be used.

    First `*.index.json` and `config.json`, then the heads of weights, then the other small
    files. Files of up to ``file_limit`` bytes count as small; when all of them are more
    than ``total_limit`` bytes, the smallest are taken.
    """
    weights = [file for file in layout.files if is_weights(file.path, file.size)]
    known = {file.path for file in weights}
    small = [file for file in layout.files if file.path not in known and file.size <= file_limit]
    small.sort(key=lambda file: (_rank(file), file.size, file.path))
    taken, left = [], total_limit
    for file in small:
        if 0 < file.size <= left:
            taken.append(file)
            left -= file.size
    first = [file for file in taken if _rank(file) < _OTHER]
    headers = in_order([file for file in weights if indexer_of(file.path) is not None], {})
    del headers[_HEADERS:]
    return Plan(
        spans=(
            *(span for file in first for span in _whole(file)),
            *(_head(file) for file in headers if file.size),
            *_joined([f for f in taken if _rank(f) == _OTHER], _small_blobs(layout, file_limit)),
        ),
        indexes=tuple(file for file in first if _is_index(file) and file.size <= INDEX_LIMIT),
        headers=tuple(headers),
    )


def unwanted(layout: Layout) -> dict[Digest, RangeSet]:
    """Of the blobs that also have files which were left out, what need not be fetched.

    What lies between files that are wanted is worth no request of its own when it is little.
    """
    found = {
        blob.digest: RangeSet([(0, blob.size)])
        for blob in layout.blobs
        if blob.digest in layout.partly
    }
    for span in _joined([file for file in layout.files if file.digest in found], {}):
        found[span.digest].remove(span.start, span.end)
    return found


def in_order(weights: Iterable[File], indexes: Mapping[str, ShardIndex]) -> list[File]:
    """Files of weights as they will be read: as the index of their directory lists them.

    ``indexes`` are by the path of their file. Where there is none, and for files it does not
    name: by name, where numbers count as numbers; named ones first.
    """
    places: dict[str, int] = {}
    for path, index in sorted(indexes.items(), key=lambda item: _natural(item[0])):
        directory = path.removesuffix(basename(path))
        for name in index.shards:
            places.setdefault(directory + name, len(places))

    def place(file: File) -> tuple[object, ...]:
        directory = file.path.removesuffix(basename(file.path))
        listed = places.get(file.path, len(places))
        return (_natural(directory), listed, _natural(file.path))

    return sorted(weights, key=place)


def blob_order(layout: Layout, indexes: Mapping[str, ShardIndex]) -> list[Digest]:
    """The blobs of a model in the order of their completion.

    What is small and no weights comes first, then the weights, then the rest.
    """
    weights = in_order((f for f in layout.files if is_weights(f.path, f.size)), indexes)
    shards = dict.fromkeys(file.digest for file in weights)
    others = [blob for blob in layout.blobs if blob.digest not in shards]
    return [
        *(blob.digest for blob in others if blob.size <= _SIDE),
        *shards,
        *(blob.digest for blob in others if blob.size > _SIDE),
    ]


def boundaries(file: File, index: TensorIndex) -> Sequence[int]:
    """Where tensors of ``file`` begin and end: sorted offsets in its blob, each once."""
    found = {index.data_start}
    for tensor in index.tensors:
        found.add(tensor.offset)
        found.add(tensor.offset + tensor.size)
    return array("Q", sorted(file.offset + place for place in found))


_INDEX, _CONFIG, _OTHER = range(3)


def _rank(file: File) -> int:
    if _is_index(file):
        return _INDEX
    return _CONFIG if basename(file.path) == "config.json" else _OTHER


def _is_index(file: File) -> bool:
    return file.path.endswith(SUFFIX)


def _whole(file: File) -> list[Span]:
    """In pieces that can come in parallel."""
    return _cut(Span(file.digest, file.offset, file.offset + file.size))


def _head(file: File) -> Span:
    return Span(file.digest, file.offset, file.offset + min(file.size, FIRST_READ))


def _small_blobs(layout: Layout, limit: int) -> dict[Digest, int]:
    """Blobs that are fetched whole for any file in them, and their sizes."""
    shards = {file.digest for file in layout.files if is_weights(file.path, file.size)}
    shards |= layout.partly
    blobs = (blob for blob in layout.blobs if blob.size <= limit)
    return {blob.digest: blob.size for blob in blobs if blob.digest not in shards}


def _joined(files: Sequence[File], whole: Mapping[Digest, int]) -> list[Span]:
    """The files' ranges, the smallest files first; neighbours in a tar as one."""
    by_blob: dict[Digest, list[File]] = {}
    for file in files:
        by_blob.setdefault(file.digest, []).append(file)
    found: list[Span] = []
    for digest, inside in by_blob.items():
        if digest in whole:
            found += _cut(Span(digest, 0, whole[digest]))
            continue
        inside.sort(key=lambda file: file.offset)
        start, end = inside[0].offset, inside[0].offset
        for file in inside:
            if file.offset - end > _GAP:
                found += _cut(Span(digest, start, end))
                start = file.offset
            end = max(end, file.offset + file.size)
        found += _cut(Span(digest, start, end))
    return found


def _cut(span: Span) -> list[Span]:
    return [
        Span(span.digest, start, min(start + _RANGE, span.end))
        for start in range(span.start, span.end, _RANGE)
    ]


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Sorts ``part-10`` behind ``part-9``."""
    parts = _NUMBER.split(name)  # every second one is a number
    return tuple(
        (text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)
    )
