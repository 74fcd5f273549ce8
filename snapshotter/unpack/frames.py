"""Where the frames of a zstd blob are, as its seek table says. Pure.

Zstandard Seekable Format (``contrib/seekable_format`` of zstd): the last frame is a skippable
one with magic 0x184D2A5E, of an entry for each frame (compressed size, decompressed size, and a
checksum where the descriptor's highest bit says so, each 32 bits), and nine bytes at its end:
number of frames, descriptor, 0x8F92EAB1. All little-endian. Whoever does not know the format
sees ordinary frames.

A table is believed only where it accounts for every byte of the blob. Whether frames really
become what it says shows when they are decompressed.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import zstandard

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.tar import Want
from snapshotter.unpack.inflate import ZSTD_WINDOW

FRAME_LIMIT = 32 << 20
"""Bytes of the largest frame that is decompressed for a reader; it is held in memory."""
_TABLE_LIMIT = 8 << 20
_SKIPPABLE = 0x184D2A5E
_SEEKABLE = 0x8F92EAB1
_CHECKSUMS = 0x80
_RESERVED = 0x7C
_HEADER = struct.Struct("<II")
_FOOTER = struct.Struct("<IBI")
_OVERHEAD = 1 << 20
"""What incompressible bytes may grow by."""

Reading: TypeAlias = Generator[Want, bytes, "Frames | None"]


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames one after the other, from the first byte of blob and content on."""

    packed: Sequence[int]
    """Where each begins in the blob; and where the last ends."""
    content: Sequence[int]
    """The same in what the blob decompresses to."""

    def __len__(self) -> int:
        return len(self.packed) - 1

    @property
    def size(self) -> int:
        """Bytes of all content."""
        return self.content[-1]

    def touched(self, start: int, end: int) -> Iterator[int]:
        """The numbers of the frames that have a byte of ``[start, end)`` of the content."""
        number = bisect_right(self.content, start) - 1
        while start < end and number < len(self) and self.content[number] < end:
            if self.content[number] < self.content[number + 1]:
                yield number
            number += 1

    def span(self, number: int) -> tuple[int, int]:
        """Where frame ``number`` begins and ends in the blob."""
        return self.packed[number], self.packed[number + 1]

    def bounds(self, number: int) -> tuple[int, int]:
        """Where its content begins and ends."""
        return self.content[number], self.content[number + 1]


def find_frames(size: int) -> Reading:
    """Read the seek table of a blob of ``size`` bytes, from its end; None where it has none.

    None too where the table does not add up, or has frames that are too large to be
    decompressed for one read: such a blob is a stream like any other.
    """
    if size < _HEADER.size + _FOOTER.size:
        return None
    footer = yield Want(size - _FOOTER.size, _FOOTER.size)
    count, descriptor, magic = _FOOTER.unpack(footer)
    if magic != _SEEKABLE or descriptor & _RESERVED:
        return None
    entry = struct.Struct("<III" if descriptor & _CHECKSUMS else "<II")
    length = count * entry.size + _FOOTER.size
    begin = size - length - _HEADER.size
    if begin < 0 or length > _TABLE_LIMIT or count == 0:
        return None
    table = yield Want(begin, size - begin)
    if _HEADER.unpack_from(table) != (_SKIPPABLE, length):
        return None
    packed, content = array("Q", [0]), array("Q", [0])
    entries = memoryview(table)[_HEADER.size : _HEADER.size + count * entry.size]
    for compressed, becomes, *_ in entry.iter_unpack(entries):
        if becomes > FRAME_LIMIT or compressed > becomes + _OVERHEAD:
            return None
        packed.append(packed[-1] + compressed)
        content.append(content[-1] + becomes)
    return Frames(packed, content) if packed[-1] == begin else None


def decompress_frame(data: bytes, becomes: int, where: str) -> bytes:
    """``data``, one whole frame, decompressed.

    Raises :class:`ArtifactError` unless it is ``becomes`` bytes then.
    """
    try:
        # Across frames: if there is another behind it, then the table is wrong.
        stream = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).stream_reader(
            data, read_across_frames=True
        )
        content = stream.read(becomes + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise ArtifactError(f"{where}: malformed zstd frame: {error}") from None
    if len(content) != becomes:
        raise ArtifactError(
            f"{where}: its seek table says that a frame becomes {becomes} bytes, which is not so: "
            "build the model again"
        )
    return content
