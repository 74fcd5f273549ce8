"""The hash of a blob from its first byte on, as far as it is there; goes on where it was.

Bytes that are there never change, so what was hashed need not be read again. When
some were lost (:attr:`Blob.losses`) hashing begins anew.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from snapshotter.artifact.digest import Digest, algorithm
from snapshotter.buffers import ThreadBuffer
from snapshotter.cache.errors import Unreadable

if TYPE_CHECKING:
    from snapshotter.cache.blob import Blob

_READ = 1 << 20
_buffers = ThreadBuffer(_READ)


class Verification:
    """How far a blob of ``size`` bytes was hashed. Not thread-safe; keeps no blob alive."""

    def __init__(self, digest: Digest, size: int) -> None:
        self._digest = digest
        self._size = size
        self._restart(-1)

    @property
    def position(self) -> int:
        """Bytes hashed, from the beginning."""
        return self._position

    @property
    def losses(self) -> int:
        """Of the blob, for all bytes hashed; see :attr:`Blob.losses`."""
        return self._losses

    @property
    def whole(self) -> bool:
        return self._losses >= 0 and self._position == self._size

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()

    def advance(self, blob: Blob, limit: int) -> int:
        """Hash what follows, at most ``limit`` bytes, and return how much was.

        0 when the next byte is not there, or when bytes were lost meanwhile. Raises
        :class:`Unreadable` when the disk does not give them.
        """
        if blob.losses != self._losses:
            self._restart(blob.losses)
        gap = blob.first_gap(self._position, self._size)
        end = min(self._size if gap is None else gap[0], self._position + limit)
        done = 0
        buffer = _buffers.get()
        while (offset := self._position + done) < end:
            count = blob.readinto(offset, buffer[: end - offset])
            if count == 0:
                raise Unreadable(f"{blob.path} of the cache ends at {offset} of {self._size} bytes")
            self._hasher.update(buffer[:count])
            done += count
        self._position += done
        if blob.losses != self._losses:
            self._restart(blob.losses)
            return 0
        return done

    def _restart(self, losses: int) -> None:
        self._losses = losses
        self._position = 0
        self._hasher = hashlib.new(algorithm(self._digest))
