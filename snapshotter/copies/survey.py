"""The files of a model, found by asking for as few bytes as that takes.

Raw layers are in the manifest, of tars the headers are read. What is in a compressed layer
is known only when all of it has passed, so large ones are left out unless they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.layers import Archive, archives, layers
from snapshotter.artifact.layout import File, Layout, layout
from snapshotter.artifact.manifest import Manifest
from snapshotter.artifact.rules import STRICT, Rules
from snapshotter.artifact.tar import TarIndex, index_tar
from snapshotter.copies.errors import CopyError
from snapshotter.copies.inflating import index_passing, inflated
from snapshotter.copies.reading import Blobs

UNASKED = 64 << 20
"""Compressed bytes that are read for the names in them without being asked to."""
_AT_ONCE = 8
"""Tar layers whose headers are read at the same time: each is one round trip after the other."""


@dataclass(frozen=True, slots=True)
class Survey:
    manifest: Manifest
    layout: Layout
    """Without what lies in ``unread``; it may then have no file at all."""
    unread: tuple[Archive, ...] = ()
    """Compressed layers whose files are not known."""
    archives: tuple[Archive, ...] = ()
    """All layers that hold several files, read or not."""

    def file(self, path: str) -> File:
        """Raises :class:`CopyError` naming files that are called alike."""
        for file in self.layout.files:
            if file.path == path:
                return file
        if path in self.layout.directories:
            raise CopyError(f"{path!r} is a directory of the model: name one of its files")
        for link in self.layout.links:
            if link.path == path:
                raise CopyError(f"{path!r} is a link to {link.target!r}: name that file")
        raise CopyError(f"the model has no file {path[:300]!r}{self._hint(path)}")

    def archive_of(self, file: File) -> Archive:
        return next(one for one in self.archives if one.descriptor.digest == file.digest)

    def _hint(self, path: str) -> str:
        name = path.rpartition("/")[2]
        alike = [file.path for file in self.layout.files if file.path.rpartition("/")[2] == name]
        if alike:
            return f": did you mean {alike[0]!r}?"
        return ": 'modelpack tree' lists those it has"


def survey(
    manifest: Manifest,
    blobs: Blobs,
    *,
    rules: Rules = STRICT,
    max_ratio: int,
    unasked: int | None = UNASKED,
) -> Survey:
    """The files of ``manifest``; compressed layers, the smallest first, up to ``unasked`` bytes.

    None: however many. Raises :class:`ArtifactError` for what cannot be served,
    :class:`RegistryError`, :class:`CopyError`.
    """
    found = archives(manifest)
    plain = [one for one in found if not one.encoding.compressed]
    unread, read = _chosen([one for one in found if one.encoding.compressed], unasked)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="modelpack-index") as threads:
        try:
            indexes = dict(threads.map(lambda one: _indexed(one, blobs), plain))
        except BaseException:
            blobs.close()
            raise
    for archive in read:
        indexes[archive.descriptor.digest] = passing_index(archive, blobs, max_ratio)
    # What is not known yet is as if it were empty; a model of nothing else has no file yet.
    indexes |= {archive.descriptor.digest: TarIndex(()) for archive in unread}
    unknown = {archive.descriptor.digest for archive in unread}
    known = [one for one in layers(manifest, []) if one.descriptor.digest not in unknown]
    described = layout(manifest, indexes, rules) if known or not unread else Layout((), (), ())
    return Survey(manifest, described, tuple(unread), found)


def passing_index(archive: Archive, blobs: Blobs, max_ratio: int) -> TarIndex:
    """The index of a compressed layer, which is read through for it."""
    with (
        closing(blobs.pieces(archive.descriptor, 0, archive.descriptor.size)) as pieces,
        closing(inflated(archive, pieces, max_ratio)) as content,
    ):
        return index_passing(archive, content)


def _chosen(
    compressed: Sequence[Archive], unasked: int | None
) -> tuple[list[Archive], list[Archive]]:
    """Those left out, and those read."""
    left: set[Digest] = set()
    total = 0
    for archive in sorted(compressed, key=lambda one: one.descriptor.size):
        total += archive.descriptor.size
        if unasked is not None and total > unasked:
            left.add(archive.descriptor.digest)
    return (
        [one for one in compressed if one.descriptor.digest in left],
        [one for one in compressed if one.descriptor.digest not in left],
    )


def _indexed(archive: Archive, blobs: Blobs) -> tuple[Digest, TarIndex]:
    descriptor = archive.descriptor
    steps = index_tar(descriptor.size, archive.where)
    try:
        want = next(steps)
        while True:
            want = steps.send(blobs.read(descriptor, want.offset, want.most))
    except StopIteration as done:
        return descriptor.digest, done.value
