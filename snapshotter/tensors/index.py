"""What an indexer returns, and how one is driven."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from snapshotter.artifact.tar import Want

Result = TypeVar("Result")

TENSOR_LIMIT = 250_000
"""Tensors of one file; the largest in use have some ten thousand."""
FIRST_READ = 64 << 10
"""Bytes asked for first: of most files the whole header."""


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    dtype: str
    """As the format calls it: ``BF16``, ``Q4_K``; ``type 99`` for what it does not know."""
    shape: tuple[int, ...]
    """In the order of the file: the fastest dimension comes last in safetensors, first in GGUF."""
    offset: int
    """Of its first byte in the file."""
    size: int
    """Bytes."""

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the metadata, whose values were passed over."""

    kind: str
    """Of its elements: ``string``, ``float32``, ``array``, ..."""
    length: int


Value: TypeAlias = str | int | float | bool | Array


@dataclass(frozen=True, slots=True)
class TensorIndex:
    """The tensors of one file."""

    format: str
    """``safetensors`` or ``gguf``."""
    tensors: tuple[Tensor, ...]
    """In the order of their offsets. They may overlap, and there may be holes between them."""
    data_start: int
    """Where the header ends and tensors begin; at most the size of the file."""
    metadata: Mapping[str, Value] = field(default_factory=dict)


Indexing: TypeAlias = Generator[Want, bytes, TensorIndex]


def drive(steps: Generator[Want, bytes, Result], read: Callable[[int, int], bytes]) -> Result:
    """Run ``steps`` to their end with bytes from ``read(offset, length)``."""
    try:
        want = next(steps)
        while True:
            want = steps.send(read(want.offset, want.length))
    except StopIteration as done:
        result: Result = done.value
        return result
