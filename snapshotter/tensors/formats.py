"""Which indexer reads a file, by its name."""

from __future__ import annotations

from typing import Protocol

from snapshotter.tensors.gguf import index_gguf
from snapshotter.tensors.index import Indexing
from snapshotter.tensors.safetensors import index_safetensors


class Indexer(Protocol):
    """Reads the header of a file of ``size`` bytes; ``where`` begins its errors' messages."""

    def __call__(self, size: int, where: str, *, header_limit: int = ...) -> Indexing: ...


_INDEXERS: dict[str, Indexer] = {".safetensors": index_safetensors, ".gguf": index_gguf}


def indexer_of(path: str) -> Indexer | None:
    """None where the format of the file does not say where its tensors are, or is not known."""
    suffix = path[path.rfind(".") :].lower() if "." in path else ""
    return _INDEXERS.get(suffix)
