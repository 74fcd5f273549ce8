"""A model's tree on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.table import Table
from rich.text import Text

from snapshotter.artifact.categories import category_of
from snapshotter.artifact.layout import File, Layout, Link
from snapshotter.artifact.outline import outline
from snapshotter.units import format_size

_DIGEST = 19
"""Characters of a digest that people can tell apart: ``sha256:`` and twelve."""


def plain(text: str) -> str:
    """Without what a terminal would not show as it is: names come from strangers."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)


def short(digest: str) -> str:
    return digest[:_DIGEST]


def tree_table(
    layout: Layout,
    encodings: Mapping[int, str],
    here: Callable[[str], str] | None = None,
) -> Table:
    """A line for each directory, file and link. ``here`` says of a digest how much is here."""
    table = Table(box=None, pad_edge=False)
    columns = ["FILE", "SIZE", "CATEGORY", "ENCODING", "DIGEST", *(["HERE"] if here else [])]
    for column in columns:
        table.add_column(
            column,
            justify="right" if column == "SIZE" else "left",
            overflow="fold" if column == "FILE" else "ellipsis",
            no_wrap=column != "FILE",
        )
    for line in outline(layout):
        name = Text(line.stem, style="dim")
        if isinstance(line.node, File):
            file = line.node
            table.add_row(
                name.append(plain(line.name), style="not dim"),
                format_size(file.size),
                category_of(file.path, file.size, file.category).value,
                encodings[file.layer],
                short(file.digest),
                *([here(file.digest)] if here else []),
            )
        elif isinstance(line.node, Link):
            table.add_row(name.append(plain(f"{line.name} -> {line.node.target}")), "", "link")
        else:
            table.add_row(name.append(plain(f"{line.name}/"), style="not dim bold"))
    return table
