"""What is read of a layer before anybody reads it: its seek table, and the names in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from snapshotter.artifact.tar import TarIndex, index_tar
from snapshotter.unpack.frames import Frames, find_frames

Read: TypeAlias = Callable[[int, int], bytes]
"""Bytes ``[start, end)``; waits for them, raises what kept them from coming."""

INDEX_FRAMES = 64
"""Frames that are decompressed to know the names in a layer, before all of it is."""


def read_frames(size: int, read: Read) -> Frames | None:
    """Where the frames of a blob of ``size`` bytes are; None where it is one stream."""
    steps = find_frames(size)
    try:
        want = next(steps)
        while True:
            want = steps.send(read(want.offset, want.offset + want.length))
    except StopIteration as done:
        found: Frames | None = done.value
        return found


def read_index(frames: Frames, where: str, read: Read) -> TarIndex | None:
    """The index of the archive in ``frames``, of whose content ``read`` gives bytes.

    None where that takes so many frames that all of it had better be unpacked. Raises
    :class:`ArtifactError` when it is no archive that can be served.
    """
    touched: set[int] = set()
    steps = index_tar(frames.size, where)
    try:
        want = next(steps)
        while len(touched) <= INDEX_FRAMES:
            end = want.offset + want.length
            touched.update(frames.touched(want.offset, end))
            want = steps.send(read(want.offset, end))
    except StopIteration as done:
        index: TarIndex = done.value
        return index
    return None
