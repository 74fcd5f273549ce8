"""``*.safetensors.index.json``: which tensor is in which shard, as transformers writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from snapshotter.tensors.errors import TensorsError

SUFFIX = ".index.json"
INDEX_LIMIT = 64 << 20
"""Bytes; the largest in use have some 20 MiB."""
_COMMAS = 2_000_000


class _Document(msgspec.Struct, frozen=True):
    weight_map: dict[str, str]


_document = msgspec.json.Decoder(_Document)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    weight_map: Mapping[str, str]
    """Name of a tensor to the name of its shard, which lies in the directory of the index."""

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards, in the order in which their first tensors are listed."""
        return tuple(dict.fromkeys(self.weight_map.values()))


def parse_shard_index(raw: bytes, where: str) -> ShardIndex:
    """Raises :class:`TensorsError`; ``where`` begins its message."""
    if len(raw) > INDEX_LIMIT or raw.count(b",") > _COMMAS:
        raise TensorsError(f"{where}: an index of {len(raw)} bytes is larger than any in use")
    try:
        return ShardIndex(_document.decode(raw).weight_map)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TensorsError(f"{where}: no index of shards: {error}") from None
