"""The files of a model as fuse/ serves them: a tree, and where the bytes of each file are."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TypeAlias

from fuse.tree import Directory, File, Link
from snapshotter.artifact.layout import File as ModelFile
from snapshotter.artifact.layout import Layout
from snapshotter.cache.blob import Blob
from snapshotter.mounts.loader import Model
from snapshotter.mounts.options import MountOptions
from snapshotter.unpack.unpacked import Unpacked


@dataclass(frozen=True, slots=True)
class Source:
    """Where the bytes of a file are."""

    path: str
    blob: Blob
    offset: int
    """Of the file's first byte in the blob."""
    whole: bool
    """The blob is the file, so the kernel can read the one for the other."""
    unpacked: Unpacked | None = None
    """Of a compressed blob: what it decompresses to, in which ``offset`` counts."""


Nodes: TypeAlias = dict[bytes, File[Source] | Directory | Link]


def nodes_of(model: Model, options: MountOptions) -> Nodes:
    """The tree below a mount point, by path; owners as configured, whatever the artifact says."""
    owner = {"uid": options.uid, "gid": options.gid}
    nodes: Nodes = {b"": Directory(**owner)}
    layout: Layout = model.layout
    for path in layout.directories:
        nodes[os.fsencode(path)] = Directory(**owner)
    for link in layout.links:
        nodes[os.fsencode(link.path)] = Link(os.fsencode(link.target), link.mtime_ns, **owner)
    for file in layout.files:
        nodes[os.fsencode(file.path)] = _node(file, _source(file, model), owner)
    return nodes


def _source(file: ModelFile, model: Model) -> Source:
    if file.compressed:
        unpacked = model.unpacked[file.digest]
        return Source(file.path, unpacked.blob, file.offset, False, unpacked)
    blob = model.blobs[file.digest]
    return Source(file.path, blob, file.offset, file.offset == 0 and file.size == blob.size)


def _node(file: ModelFile, source: Source, owner: dict[str, int]) -> File[Source]:
    return File(
        size=file.size,
        content=source,
        mode=stat.S_IMODE(file.mode),
        mtime_ns=file.mtime_ns,
        **owner,
    )
