"""`modelpack tree`: the files of a model."""

from __future__ import annotations

import dataclasses
import json

import click
from rich.text import Text

from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.layout import Layout
from snapshotter.artifact.names import parents
from snapshotter.artifact.selection import Selection
from snapshotter.cli.inspect import encodings, file_table
from snapshotter.cli.opened import (
    opened,
    platform_option,
    selected,
    selection,
    selection_options,
    unpack_option,
)
from snapshotter.cli.options import Settings, json_option, plain_http_option, terminal
from snapshotter.cli.trees import plain, tree_table
from snapshotter.copies.errors import CopyError
from snapshotter.units import format_size


@click.command()
@click.argument("reference")
@selection_options
@unpack_option
@platform_option
@plain_http_option
@json_option
@click.pass_obj
def tree(
    settings: Settings,
    reference: str,
    patterns: tuple[str, ...],
    exclude: tuple[str, ...],
    categories: tuple[str, ...],
    exclude_categories: tuple[str, ...],
    unpack: bool,
    platform: Platform | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Show the files of the model REFERENCE as a tree, with sizes, categories and digests.

    Patterns and categories choose as in fetch and mount, so this also shows what they choose.

    \b
    Examples:
      modelpack tree registry.example.com/models/qwen3:8b
      modelpack tree -p '*.json' --exclude 'original/*' registry.example.com/models/qwen3:8b
      modelpack tree registry.example.com/models/qwen3:8b --json | jq '.files[].path'
    """
    chosen = selection(patterns, exclude, categories, exclude_categories)
    with opened(settings, reference, platform=platform, plain_http=plain_http) as model:
        found = model.survey(unpack=unpack)
    types = encodings(model.manifest)
    shown = choose(found.layout, chosen)
    if chosen and not shown.files and not found.unread:
        raise CopyError(
            f"no file of {reference} is chosen: 'modelpack tree' without options has all"
        )
    unread = [archive.number for archive in found.unread]
    if as_json:
        report = {
            "reference": str(model.reference),
            "digest": model.manifest.digest,
            "files": [file_table(file, types) for file in shown.files],
            "directories": list(shown.directories),
            "links": [dataclasses.asdict(link) for link in shown.links],
            "unread_layers": unread,
        }
        click.echo(json.dumps(report, indent=2))
        return
    console = terminal()
    console.print(tree_table(shown, types), highlight=False)
    console.print(
        Text(
            f"{len(shown.files)} files, {format_size(shown.size)}"
            + "".join(
                f"; and those in {plain(archive.where)} ({archive.encoding.value}, "
                f"{format_size(archive.descriptor.size)}), which --unpack downloads"
                for archive in found.unread
            )
        )
    )


def choose(layout: Layout, chosen: Selection) -> Layout:
    """The part of ``layout`` that is chosen: of directories those that then hold something."""
    if not chosen:
        return layout
    files = tuple(file for file in layout.files if selected(chosen, file))
    directories = sorted({parent for file in files for parent in parents(file.path)})
    return dataclasses.replace(layout, files=files, directories=tuple(directories), links=())
