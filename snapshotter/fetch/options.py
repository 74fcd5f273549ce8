"""Settings of the fetcher: the ``[fetch]`` table of the configuration."""

from __future__ import annotations

import msgspec

from snapshotter.units import ByteSize, Seconds

_KIB, _MIB = 1 << 10, 1 << 20


class FetchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[fetch]``: which bytes are brought, and with how many connections."""

    connections: int = 16
    """Ranges fetched at the same time at most, all models together. Of each registry some are
    fetched at once, and more while that makes it faster."""

    reserved: int = 2
    """Of these, how many only ever fetch what a reader waits for, so that a small read never
    waits for a large range to end."""

    range_size: ByteSize = ByteSize(16 * _MIB)
    """Largest range asked for in one request when reading ahead or completing a model; up to four
    times that where one connection brings so much in 0.2 seconds."""

    grain: ByteSize = ByteSize(64 * _KIB)
    """Smallest range asked for: an isolated read fetches what it touches, rounded to this."""

    sequential_after: ByteSize = ByteSize(256 * _KIB)
    """Bytes read in a row that make a reader sequential, so that bytes are fetched ahead of it."""

    readahead: ByteSize = ByteSize(128 * _MIB)
    """How far ahead of a sequential reader is fetched at most; it begins with 1 MiB, or
    16 MiB where all of the model is being fetched, and keeps twice what was read in a row."""

    memory: ByteSize = ByteSize(64 * _MIB)
    """Of what is fetched ahead of readers, how much stays in the daemon's memory until they come
    to it, in addition to the cache. Where CPU time is short no more than this is fetched ahead from
    a registry nearby."""

    background: bool = True
    """Complete a model that is being read, in the order of its files, with the connections that
    readers leave free."""

    background_rate: ByteSize = ByteSize(0)
    """Bytes per second that completing models in the background may take; 0: no limit. What
    readers wait for, and what is fetched ahead of them, does not count."""

    background_delay: Seconds = Seconds(10)
    """Time from the first read of a model to its completion in the background."""

    background_after: ByteSize = ByteSize(2 * _MIB)
    """Bytes read in a row that start the completion at once."""

    read_deadline: Seconds = Seconds(300)
    """How long a read waits for a registry that fails before it fails itself."""

    first_backoff: Seconds = Seconds(0.2)
    """Pause after a first failed request; it doubles with each further one, and is jittered."""

    max_backoff: Seconds = Seconds(10)
    """Longest pause between two attempts, unless the registry asks for a longer one."""

    def __post_init__(self) -> None:
        if not 0 <= self.reserved < self.connections:
            raise ValueError("reserved must be 0 or more and less than connections")
        if self.background_rate < 0:
            raise ValueError("background_rate must be 0 or more")
        if self.memory < 0:
            raise ValueError("memory must be 0 or more")
        if self.grain < 1 or self.range_size < self.grain:
            raise ValueError("range_size must be grain or more, and grain 1 or more")
