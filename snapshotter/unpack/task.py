"""A layer being unpacked, and for whom: the unpacker's record of it."""

from __future__ import annotations

from snapshotter.artifact.mediatypes import Encoding
from snapshotter.fetch.fetcher import LoadedModel
from snapshotter.unpack.unpacked import Unpacked


class Task:
    """Not thread-safe: the unpacker has a lock around it."""

    def __init__(self, unpacked: Unpacked, sources: list[LoadedModel]) -> None:
        self.unpacked = unpacked
        self.sources = sources
        """Models through which its compressed bytes may be fetched, the next to try first."""
        self.claims = 1
        self.lingers = False
        """Goes on although nobody has it, for the mount that will be tried again."""
        self.indexed = False
        """The index was written down."""
        self.looked = unpacked.archive.encoding is not Encoding.TAR_ZSTD
        """It is known whether it can be read at random."""
        self.busy = False
        self.paused_until = 0.0

    def runs(self, now: float) -> bool:
        """Whether a thread may do a step of it."""
        unpacked = self.unpacked
        waiting = unpacked.urgency > 0 and unpacked.failure is None
        return self.open and (waiting or now >= self.paused_until)

    @property
    def open(self) -> bool:
        """Whether there is something to do for it, now or later."""
        unpacked = self.unpacked
        resting = self.looked and unpacked.resting
        return unpacked.stream is not None and not self.busy and not resting

    @property
    def wanted(self) -> bool:
        draining = self.unpacked.failure is not None and self.unpacked.stream is not None
        return self.claims > 0 or self.lingers or draining
