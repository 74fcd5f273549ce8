"""The header of a safetensors file.

Format: https://huggingface.co/docs/safetensors, "Format": the length of the header as 8 bytes
little-endian, the header as JSON, then the tensors' bytes. Where the reference implementation
is stricter than a reader needs (holes, overlaps, duplicate keys) this one is not.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from snapshotter.artifact.tar import Want
from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.index import FIRST_READ, TENSOR_LIMIT, Indexing, Tensor, TensorIndex

HEADER_LIMIT = 100_000_000
"""Bytes, the reference implementation's own."""
_PREFIX = 8
_COMMAS = 8 * TENSOR_LIMIT
_Natural = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: Annotated[tuple[_Natural, ...], msgspec.Meta(max_length=64)]
    data_offsets: tuple[_Natural, _Natural]


_header = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry = msgspec.json.Decoder(_Entry)
_metadata = msgspec.json.Decoder(dict[str, str] | None)


def index_safetensors(size: int, where: str, *, header_limit: int = HEADER_LIMIT) -> Indexing:
    """Index a file of ``size`` bytes; ``where`` begins every message of an error.

    Raises :class:`TensorsError` when it is no such file, when a tensor ends outside of it, and
    when the header is larger than ``header_limit`` bytes or has more than 250,000 tensors.
    """
    if size < _PREFIX:
        raise TensorsError(f"{where}: a safetensors file begins with 8 bytes, this one has {size}")
    data = yield Want(0, min(size, FIRST_READ))
    length = int.from_bytes(data[:_PREFIX], "little")
    start = _PREFIX + length
    if start > size:
        raise TensorsError(
            f"{where}: no safetensors file, or a truncated one: the header is said to end "
            f"at byte {start} of {size}"
        )
    if length > header_limit:
        raise TensorsError(f"{where}: a header of {length} bytes, at most {header_limit} are read")
    if start > len(data):
        data += yield Want(len(data), start - len(data))
    return _index(memoryview(data)[_PREFIX:start], start, size, where)


def _index(raw: memoryview, start: int, size: int, where: str) -> TensorIndex:
    header = bytes(raw)
    # Before anything is made of it: how much memory that could take.
    if header.count(b"{") > TENSOR_LIMIT + 2 or header.count(b",") > _COMMAS:
        raise TensorsError(f"{where}: more than {TENSOR_LIMIT} tensors in one header")
    name = "__metadata__"
    try:
        entries = _header.decode(header)
        metadata = _metadata.decode(entries.pop(name, msgspec.Raw(b"null"))) or {}
        tensors = []
        for name, entry in entries.items():
            tensors.append(_tensor(name, _entry.decode(entry), start, size, where))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TensorsError(f"{where}: malformed safetensors header: {error}") from None
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size))
    return TensorIndex("safetensors", tuple(tensors), start, metadata)


def _tensor(name: str, entry: _Entry, start: int, size: int, where: str) -> Tensor:
    first, last = entry.data_offsets
    if not first <= last <= size - start:
        raise TensorsError(
            f"{where}: tensor {name[:100]!r} is said to be bytes {first} to {last} "
            f"of {size - start}: the file is truncated or wrong"
        )
    return Tensor(name, entry.dtype, entry.shape, start + first, last - first)
