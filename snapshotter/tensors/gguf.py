"""Metadata and tensors of a GGUF file. Format: ggml's ``docs/gguf.md``, versions 2 and 3.

Values of arrays are passed over: vocabularies are most of the metadata and say nothing of
where tensors are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from snapshotter.artifact.tar import Want
from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.ggml import TYPES
from snapshotter.tensors.index import (
    FIRST_READ,
    TENSOR_LIMIT,
    Array,
    Indexing,
    Tensor,
    TensorIndex,
    Value,
)

HEADER_LIMIT = 256 << 20
"""Bytes before the tensors' data; those in use have up to some 20 MiB, nearly all vocabulary."""
_MOST_READ = 4 << 20
_FAR = 1 << 20  # what is passed over and less is asked for all the same
_PAIRS = 10_000
_STRINGS = 4_000_000  # in all arrays
_NAME = 64 << 10
_TEXT = 1 << 20  # a longer value is passed over, as one is
_TEXTS = 16 << 20  # after which every value is
_DIMENSIONS = 8
_DEPTH = 4
_ALIGNMENT = 32
_MOST_ALIGNMENT = 1 << 20

_STRING, _ARRAY = 8, 9
_KINDS = {
    0: ("uint8", "B"), 1: ("int8", "b"), 2: ("uint16", "H"), 3: ("int16", "h"),
    4: ("uint32", "I"), 5: ("int32", "i"), 6: ("float32", "f"), 7: ("bool", "?"),
    _STRING: ("string", ""), _ARRAY: ("array", ""), 10: ("uint64", "Q"), 11: ("int64", "q"),
    12: ("float64", "d"),
}  # fmt: skip


def index_gguf(size: int, where: str, *, header_limit: int = HEADER_LIMIT) -> Indexing:
    """Index a file of ``size`` bytes, of either byte order; ``where`` begins every message.

    Raises :class:`TensorsError` when it is no such file, when a tensor ends outside of it, and
    when metadata and the list of tensors take more than ``header_limit`` bytes.
    """
    head = _Head(size, where, min(size, header_limit))
    magic, version = yield from head.numbers("4sI")
    if magic != b"GGUF":
        raise TensorsError(f"{where}: no GGUF file: it begins with {magic!r}")
    if version & 0xFFFF == 0:
        head.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in (2, 3):
        raise TensorsError(f"{where}: GGUF version {version}, expected 2 or 3")
    tensors, pairs = yield from head.numbers("QQ")
    if tensors > TENSOR_LIMIT or pairs > _PAIRS:
        raise TensorsError(
            f"{where}: {tensors} tensors and {pairs} pairs of metadata: "
            f"at most {TENSOR_LIMIT} and {_PAIRS} are read"
        )
    metadata = yield from _metadata(head, pairs)
    found = []
    for _ in range(tensors):
        found.append((yield from _tensor(head)))
    start = min(_data_start(head.at, metadata.get("general.alignment", _ALIGNMENT), where), size)
    return TensorIndex("gguf", _placed(found, start, size, where), start, metadata)


@dataclass(slots=True)
class _Head:
    """Bytes from the beginning of the file on, asked for in growing steps."""

    size: int
    where: str
    limit: int
    order: str = "<"
    start: int = 0
    """Place in the file of ``data``."""
    data: bytes = b""
    at: int = 0
    """Place in the file of what is read next."""
    step: int = FIRST_READ
    texts: int = 0
    strings: int = 0

    def need(self, count: int) -> Generator[Want, bytes, int]:
        """Have ``count`` bytes at hand; returns where in ``data`` they begin, and passes them."""
        begin, end = self.at, self.at + count
        if end > self.limit:
            raise TensorsError(self._too_long(end))
        if end > self.start + len(self.data):
            known = self.data[begin - self.start :]
            offset = self.start + len(self.data)
            if begin - offset > _FAR:
                known, offset = b"", begin
            want = Want(offset, min(max(end - offset, self.step), self.limit - offset))
            more = yield want
            if len(more) != want.length:
                raise TensorsError(
                    f"{self.where}: {len(more)} bytes came for {want.length} at {offset}"
                )
            self.start, self.data = offset - len(known), known + more
            self.step = min(2 * self.step, _MOST_READ)
        self.at = end
        return begin - self.start

    def skip(self, count: int) -> None:
        self.at += count
        if self.at > self.limit:
            raise TensorsError(self._too_long(self.at))

    def numbers(self, form: str) -> Generator[Want, bytes, tuple[Any, ...]]:
        form = self.order + form
        at = yield from self.need(struct.calcsize(form))
        return struct.unpack_from(form, self.data, at)

    def name(self) -> Generator[Want, bytes, str]:
        (length,) = yield from self.numbers("Q")
        if length > _NAME:
            raise TensorsError(f"{self.where}: a name of {length} bytes at byte {self.at} of GGUF")
        at = yield from self.need(length)
        return self.data[at : at + length].decode("utf-8", "replace")

    def text(self) -> Generator[Want, bytes, str | None]:
        (length,) = yield from self.numbers("Q")
        self.texts += min(length, _TEXT)
        if length > _TEXT or self.texts > _TEXTS:
            self.skip(length)
            return None
        at = yield from self.need(length)
        return self.data[at : at + length].decode("utf-8", "replace")

    def skip_texts(self, count: int) -> Generator[Want, bytes, None]:
        self.strings += count
        if self.strings > _STRINGS:
            raise TensorsError(f"{self.where}: more than {_STRINGS} strings in GGUF metadata")
        read = struct.Struct(self.order + "Q").unpack_from
        for _ in range(count):
            # A vocabulary has some 100,000: without a generator for each.
            at = self.at - self.start
            if 0 <= at <= len(self.data) - 8 and self.at + 8 <= self.limit:
                self.at += 8
            else:
                at = yield from self.need(8)
            self.skip(read(self.data, at)[0])

    def _too_long(self, end: int) -> str:
        if self.limit < self.size:
            return f"{self.where}: GGUF metadata of over {self.limit} bytes is not read"
        return f"{self.where}: truncated, or no GGUF: byte {end} is needed, it has {self.size}"


def _metadata(head: _Head, pairs: int) -> Generator[Want, bytes, dict[str, Value]]:
    found: dict[str, Value] = {}
    for _ in range(pairs):
        key = yield from head.name()
        (kind,) = yield from head.numbers("I")
        value: Value | None
        if kind == _ARRAY:
            value = yield from _array(head, _DEPTH)
        elif kind == _STRING:
            value = yield from head.text()
        else:
            (value,) = yield from head.numbers(_kind(head, kind)[1])
        head.texts += len(key)
        if value is not None and head.texts <= _TEXTS:
            found[key] = value
    return found


def _array(head: _Head, depth: int) -> Generator[Want, bytes, Array]:
    kind, count = yield from head.numbers("IQ")
    name, form = _kind(head, kind)
    if kind == _STRING:
        yield from head.skip_texts(count)
    elif kind == _ARRAY:
        head.strings += count
        if depth == 0 or head.strings > _STRINGS:
            raise TensorsError(f"{head.where}: too many arrays in arrays of GGUF metadata")
        for _ in range(count):
            yield from _array(head, depth - 1)
    else:
        head.skip(count * struct.calcsize(form))
    return Array(name, count)


def _kind(head: _Head, kind: int) -> tuple[str, str]:
    try:
        return _KINDS[kind]
    except KeyError:
        raise TensorsError(
            f"{head.where}: type {kind} of a value before byte {head.at}: no GGUF has it"
        ) from None


@dataclass(frozen=True, slots=True)
class _Info:
    """A tensor as it is listed: its offset is from the first tensor's, its size to be told."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


def _tensor(head: _Head) -> Generator[Want, bytes, _Info]:
    name = yield from head.name()
    (dimensions,) = yield from head.numbers("I")
    if dimensions > _DIMENSIONS:
        raise TensorsError(f"{head.where}: tensor {name[:100]!r} has {dimensions} dimensions")
    *shape, kind, offset = yield from head.numbers(f"{dimensions}QIQ")
    return _Info(name, tuple(shape), kind, offset)


def _data_start(end: int, alignment: Value, where: str) -> int:
    if not isinstance(alignment, int) or not 0 < alignment <= _MOST_ALIGNMENT:
        raise TensorsError(f"{where}: general.alignment is {alignment!r}")
    return -(-end // alignment) * alignment


def _placed(found: list[_Info], start: int, size: int, where: str) -> tuple[Tensor, ...]:
    found.sort(key=lambda info: info.offset)
    ends = [*(info.offset for info in found[1:]), size - start][: len(found)]
    tensors = []
    for info, end in zip(found, ends, strict=True):
        dtype, block, stored = TYPES.get(info.type, (f"type {info.type}", 0, 0))
        # Of a type that is not known: whatever lies before the next tensor.
        length = -(-math.prod(info.shape) // block) * stored if block else end - info.offset
        if length < 0 or info.offset + length > size - start:
            raise TensorsError(
                f"{where}: tensor {info.name[:100]!r} is said to be {max(length, 0)} bytes at "
                f"{info.offset} of {size - start}: the file is truncated or wrong"
            )
        tensors.append(Tensor(info.name, dtype, info.shape, start + info.offset, length))
    return tuple(tensors)
