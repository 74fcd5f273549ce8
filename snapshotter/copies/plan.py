"""Which files of a model are copied, and which of their blobs that needs. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from snapshotter.artifact.categories import category_of
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.layout import File, Layout, Link
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.names import parents
from snapshotter.artifact.selection import Selection
from snapshotter.copies.errors import CopyError


@dataclass(frozen=True, slots=True)
class Plan:
    files: tuple[File, ...]
    links: tuple[Link, ...]
    directories: tuple[str, ...]
    unused: tuple[str, ...] = ()
    """Patterns that match no file."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def by_blob(self, done: Collection[str] = ()) -> Mapping[Digest, list[File]]:
        """Files that are not ``done`` by the blob they lie in, in the order of that."""
        found: dict[Digest, list[File]] = {}
        for file in sorted(self.files, key=lambda file: (file.layer, file.offset)):
            if file.path not in done:
                found.setdefault(file.digest, []).append(file)
        return found


def plan(layout: Layout, chosen: Selection, *, reserved: str) -> Plan:
    """What of ``layout`` is ``chosen``: all, empty directories too, where nothing is left out.

    Raises :class:`CopyError` when no file is, or one would lie in ``reserved``, which is ours.
    """
    if chosen:
        files = tuple(file for file in layout.files if is_chosen(chosen, file))
        unused = chosen.unused(file.path for file in layout.files)
        if not files:
            why = f": nothing matches {', '.join(map(repr, unused))}" if unused else ""
            raise CopyError(
                f"no file of the model is chosen{why}; 'modelpack tree' lists its files"
            )
        links = tuple(link for link in layout.links if chosen.selects(link.path, Category.OTHER))
        paths = [*(file.path for file in files), *(link.path for link in links)]
        directories = tuple(sorted({above for path in paths for above in parents(path)}))
    else:
        files, links, directories = layout.files, layout.links, layout.directories
        unused = ()
    for path in (*(file.path for file in files), *(link.path for link in links), *directories):
        if path.partition("/")[0] == reserved:
            raise CopyError(f"{path[:300]!r} of the model would lie in {reserved}: refused")
    return Plan(files, links, directories, unused)


def is_chosen(chosen: Selection, file: File) -> bool:
    return chosen.selects(file.path, category_of(file.path, file.size, file.category))
