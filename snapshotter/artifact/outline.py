"""The tree of a model, line by line as people read it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from snapshotter.artifact.layout import File, Layout, Link


@dataclass(frozen=True, slots=True)
class Line:
    stem: str
    """What stands before the name: ``│   ├── ``."""
    name: str
    node: File | Link | None
    """None of a directory."""


def outline(layout: Layout) -> Iterator[Line]:
    """Directories before what is in them, names sorted; the root is not among them."""
    children: dict[str, list[tuple[str, File | Link | None]]] = {}
    nodes: list[tuple[str, File | Link | None]] = [
        *((path, None) for path in layout.directories),
        *((file.path, file) for file in layout.files),
        *((link.path, link) for link in layout.links),
    ]
    for path, node in sorted(nodes, key=lambda each: each[0]):
        children.setdefault(path.rpartition("/")[0], []).append((path, node))
    # A stack, not recursion: a model may be as deep as names allow.
    waiting = list(reversed(_level(children.get("", []), "")))
    while waiting:
        path, line, inner = waiting.pop()
        yield line
        if line.node is None:
            waiting += reversed(_level(children.get(path, []), inner))


def _level(
    entries: Sequence[tuple[str, File | Link | None]], stem: str
) -> list[tuple[str, Line, str]]:
    """Of one directory: path, line, and the stem of what is inside."""
    found = []
    for place, (path, node) in enumerate(entries):
        last = place == len(entries) - 1
        line = Line(stem + ("└── " if last else "├── "), path.rpartition("/")[2], node)
        found.append((path, line, stem + ("    " if last else "│   ")))
    return found
