"""Files of weights made byte by byte, and what drives an indexer over them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

from snapshotter.artifact.tar import Want
from snapshotter.tensors.formats import indexer_of
from snapshotter.tensors.index import TensorIndex, drive


class File:
    """Bytes that are asked for, within bounds, and which ones were."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.asked: list[Want] = []

    def read(self, offset: int, length: int) -> bytes:
        assert length > 0
        assert 0 <= offset <= offset + length <= len(self.data)
        self.asked.append(Want(offset, length))
        return self.data[offset : offset + length]

    def index(self, name: str, **limits: int) -> TensorIndex:
        indexer = indexer_of(name)
        assert indexer is not None
        return drive(indexer(len(self.data), name, **limits), self.read)


def safetensors(header: object, data: int = 0) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


def text(value: str, order: str = "<") -> bytes:
    return struct.pack(order + "Q", len(value.encode())) + value.encode()


def gguf(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[tuple[str, tuple[int, ...], int, int]] = (),
    *,
    data: int = 0,
    version: int = 3,
    order: str = "<",
    alignment: int = 32,
) -> bytes:
    """``tensors`` are name, shape, type and offset; a whole file with ``data`` zeros behind."""
    head = b"GGUF" + struct.pack(order + "IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    for name, shape, kind, offset in tensors:
        head += text(name, order) + struct.pack(order + f"I{len(shape)}Q", len(shape), *shape)
        head += struct.pack(order + "IQ", kind, offset)
    return head + bytes(-len(head) % alignment) + bytes(data)


def pair(key: str, form: str, kind: int, value: object, order: str = "<") -> bytes:
    return text(key, order) + struct.pack(f"{order}I{form}", kind, value)


def strings(key: str, values: Sequence[str]) -> bytes:
    head = text(key) + struct.pack("<IIQ", 9, 8, len(values))
    return head + b"".join(text(value) for value in values)


def entries(**spans: tuple[int, int]) -> Mapping[str, object]:
    """The header of a file of bytes."""
    return {
        name: {"dtype": "U8", "shape": [max(0, end - start)], "data_offsets": [start, end]}
        for name, (start, end) in spans.items()
    }
