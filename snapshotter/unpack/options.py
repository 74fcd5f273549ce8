"""Settings of compressed layers: the ``[unpack]`` table of the configuration."""

from __future__ import annotations

import msgspec

from snapshotter.units import ByteSize, Seconds


class UnpackOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[unpack]``: layers that are compressed tars. Each is decompressed once, as a stream, into
    the cache; one of zstd frames with a seek table is read at random until that has come by."""

    mount_wait: Seconds = Seconds(90)
    """How long a mount waits for the names in compressed layers, which are known only when all of
    a layer has passed. A mount that waited in vain fails, the layer is unpacked on, and the next
    attempt finds it further."""

    threads: int = 2
    """Layers decompressed at the same time; 1 or more. One that a reader waits for comes first."""

    max_ratio: int = 200
    """Bytes that a compressed byte may become; a layer that becomes more, beyond its first
    256 MiB, is refused."""

    frame_memory: ByteSize = ByteSize(128 << 20)
    """Memory for frames of layers with a seek table: for those that are being decompressed, and
    as much again for those that may be read once more."""

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError("threads must be 1 or more")
        if self.max_ratio < 1:
            raise ValueError("max_ratio must be 1 or more")
        if self.frame_memory < 1 << 20:
            raise ValueError("frame_memory must be 1MiB or more")
