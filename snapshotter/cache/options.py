"""Settings of the blob cache: the ``[cache]`` table of the configuration."""

from __future__ import annotations

import msgspec

from snapshotter.units import ByteSize, Seconds


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[cache]``: when what has arrived is made durable."""

    flush_interval: Seconds = Seconds(15)
    """Longest time between the arrival of bytes and their being durable. What a power cut takes
    is fetched again; what a killed daemon wrote in this time is fetched again too."""

    flush_bytes: ByteSize = ByteSize(2 << 30)
    """Bytes that may arrive before they are made durable ahead of ``flush_interval``."""

    def __post_init__(self) -> None:
        if self.flush_interval <= 0:
            raise ValueError("flush_interval must be more than 0")
