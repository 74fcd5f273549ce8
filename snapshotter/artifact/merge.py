"""One tree out of many layers: duplicates are merged, conflicts refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.names import parents

if TYPE_CHECKING:
    from snapshotter.artifact.layout import File, Link

NODE_LIMIT = 250_000
"""Files, links and directories of one model."""
PATH_BYTES_LIMIT = 64 << 20
"""Characters of all paths of one model, directories included."""


@dataclass(slots=True)
class Merged:
    """Files, links and directories so far, free of conflicts."""

    files: dict[str, File] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)
    directories: dict[str, str] = field(default_factory=dict)
    """Path to the layer that needs it."""
    path_bytes: int = 0
    emptied: set[str] = field(default_factory=set)
    """Directories that something was left out of; they show only if something else is in them."""
    left_out: int = 0
    """Files and links that are not shown."""

    def add_file(self, file: File, where: str) -> None:
        known = self.files.get(file.path)
        if known is not None:
            if _same_content(known, file):
                return
            raise ArtifactError(
                f"{where} has {file.path!r} with other content than layer {known.layer + 1} "
                f"({known.digest}): one path must be one file; build the model again"
            )
        self._refuse_directory(file.path, "a file", where)
        link = self.links.get(file.path)
        if link is not None:
            raise _conflict(file.path, "a file", where, "a link", _layer(link))
        self._count(file.path, where)
        self._add_parents(file.path, where)
        self.files[file.path] = file

    def add_link(self, link: Link, where: str) -> None:
        known = self.links.get(link.path)
        if known is not None:
            if known.target == link.target:
                return
            raise ArtifactError(
                f"{where} has link {link.path!r} to {link.target!r}, layer {known.layer + 1} "
                f"to {known.target!r}: one path must be one link; build the model again"
            )
        self._refuse_directory(link.path, "a link", where)
        file = self.files.get(link.path)
        if file is not None:
            raise _conflict(link.path, "a link", where, "a file", _layer(file))
        self._count(link.path, where)
        self._add_parents(link.path, where)
        self.links[link.path] = link

    def add_directory(self, path: str, where: str) -> None:
        while path and path not in self.directories:
            if path in self.files:
                raise _conflict(path, "a file", _layer(self.files[path]), "a directory", where)
            if path in self.links:
                raise _conflict(path, "a link", _layer(self.links[path]), "a directory", where)
            self._count(path, where)
            self.directories[path] = where
            path = path.rpartition("/")[0]

    def leave_out(self, path: str) -> None:
        """``path`` is a file or a link that is not wanted."""
        self.left_out += 1
        for parent in parents(path):
            if parent in self.emptied:
                break
            self.emptied.add(parent)

    def shown_directories(self) -> list[str]:
        """Sorted, without those of which everything was left out."""
        if not self.emptied:
            return sorted(self.directories)
        shown = {path for path in self.directories if path not in self.emptied}
        inside = (*self.files, *self.links, *shown)
        return sorted(shown.union(*(parents(path) for path in inside)))

    def _add_parents(self, path: str, where: str) -> None:
        for parent in parents(path):
            self.add_directory(parent, where)
            break  # which adds those above it

    def _refuse_directory(self, path: str, what: str, where: str) -> None:
        if path in self.directories:
            raise _conflict(path, what, where, "a directory", self.directories[path])

    def _count(self, path: str, where: str) -> None:
        self.path_bytes += len(path)
        if len(self.files) + len(self.links) + len(self.directories) >= NODE_LIMIT:
            raise ArtifactError(f"{where}: the model has more than {NODE_LIMIT} files")
        if self.path_bytes > PATH_BYTES_LIMIT:
            raise ArtifactError(f"{where}: the model's paths take over {PATH_BYTES_LIMIT} bytes")


def _same_content(one: File, other: File) -> bool:
    if one.size != other.size:
        return False
    return one.size == 0 or (one.digest, one.offset) == (other.digest, other.offset)


def _layer(node: File | Link) -> str:
    return f"layer {node.layer + 1} ({node.digest})"


def _conflict(path: str, what: str, where: str, other: str, elsewhere: str) -> ArtifactError:
    return ArtifactError(
        f"{path!r} is {what} in {where} and {other} in {elsewhere}: "
        "build the model again with one of them"
    )
