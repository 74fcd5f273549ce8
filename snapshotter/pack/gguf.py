"""What the metadata of a GGUF file says. Format: ggml's ``docs/gguf.md``, versions 2 and 3."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

Scalar = str | int | float | bool
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q",
            12: "d"}  # fmt: skip
_STRING, _ARRAY = 8, 9
_PAIRS = 10_000
_TEXT_LIMIT = 64 << 10
_READ_LIMIT = 256 << 20
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K",
    11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S",
    17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS",
    23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
}  # fmt: skip
"""``general.file_type``: the type most tensors have."""


def read_metadata(path: Path) -> Mapping[str, Scalar]:
    """The scalar values up to the first that cannot be read; empty for what is no GGUF file."""
    found: dict[str, Scalar] = {}
    try:
        with open(path, "rb") as file:
            magic, version, _, pairs = struct.unpack("<4sIQQ", file.read(24))
            if magic != b"GGUF" or version not in (2, 3):
                return {}
            for _ in range(min(pairs, _PAIRS)):
                key = _text(file)
                (kind,) = struct.unpack("<I", file.read(4))
                value = _value(file, kind)
                if value is not None:
                    found[key] = value
    except (OSError, ValueError, struct.error, KeyError):
        pass  # facts are guesses: what has been read until here is as good as any
    return found


def _value(file: BinaryIO, kind: int) -> Scalar | None:
    if kind == _STRING:
        return _text(file)
    if kind == _ARRAY:
        _skip_array(file)
        return None
    form = "<" + _FORMATS[kind]
    value: Scalar = struct.unpack(form, file.read(struct.calcsize(form)))[0]
    return value


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _TEXT_LIMIT:
        _skip(file, length)
        return ""
    return file.read(length).decode()


def _skip_array(file: BinaryIO) -> None:
    kind, count = struct.unpack("<IQ", file.read(12))
    if kind == _STRING:
        for _ in range(count):
            (length,) = struct.unpack("<Q", file.read(8))
            _skip(file, length)
    elif kind == _ARRAY:
        raise ValueError("arrays of arrays are not in use")
    else:
        _skip(file, count * struct.calcsize("<" + _FORMATS[kind]))


def _skip(file: BinaryIO, length: int) -> None:
    if file.tell() + length > _READ_LIMIT:
        raise ValueError("metadata larger than any in use")
    file.seek(length, 1)
