"""Settings of the blob cache: the ``[cache]`` table of the configuration."""

from __future__ import annotations

import msgspec

from snapshotter.units import ByteSize, Capacity, Seconds


class CacheOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[cache]``: the blobs below ``<root>/cache``: how much of the disk they may take, how
    long they are kept, and when what has arrived is made durable."""

    quota: Capacity = Capacity("100%")
    """The most that all blobs together may take of the disk: a size such as ``"200GiB"``, or a
    share of the file system such as ``"50%"``. What does not fit is served without being kept."""

    keep_free: Capacity = Capacity("5%")
    """What the cache leaves free on its file system, whatever the quota, and gives back when
    others need it. On a Kubernetes node choose more than the kubelet's eviction thresholds
    (``imagefs.available``, 15 % unless configured), for instance ``"20%"``."""

    high_water: float = 0.95
    """Share of what the cache may take at which blobs begin to be evicted, the least recently
    used first; more than 0, at most 1. From there on no model is completed in the background."""

    low_water: float = 0.9
    """Share at which eviction ends; less than ``high_water``."""

    in_use: Seconds = Seconds(300)
    """How long after its last read or fetch a blob of a mounted model counts as being used, and
    is not evicted. So a model larger than the cache does not push itself out while it is read:
    what does not fit of it is served without being kept."""

    grace: Seconds = Seconds(24 * 3600)
    """How long the blobs of a model are kept that nobody wants any more: it is not mounted, not
    pinned, and containerd has neither an image nor a snapshot of it."""

    flush_interval: Seconds = Seconds(15)
    """Longest time between the arrival of bytes and their being durable. What a power cut takes
    is fetched again; what a killed daemon wrote in this time is fetched again too."""

    flush_bytes: ByteSize = ByteSize(2 << 30)
    """Bytes that may arrive before they are made durable ahead of ``flush_interval``."""

    def __post_init__(self) -> None:
        if self.flush_interval <= 0:
            raise ValueError("flush_interval must be more than 0")
        if not 0 < self.low_water < self.high_water <= 1:
            raise ValueError("high_water must be at most 1, and low_water between 0 and high_water")
