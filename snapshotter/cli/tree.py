"""`modelpack tree`: the files of a model."""

from __future__ import annotations

import dataclasses
import json

import click
from rich.text import Text

from snapshotter.artifact.descriptor import Platform
from snapshotter.cli.inspect import encodings, file_table
from snapshotter.cli.opened import (
    opened,
    platform_option,
    selection,
    selection_options,
    unpack_option,
)
from snapshotter.cli.options import Settings, json_option, plain_http_option, terminal
from snapshotter.cli.trees import plain, tree_table
from snapshotter.copies.destination import WORK
from snapshotter.copies.plan import plan
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
    shown = found.layout
    if chosen:
        part = plan(found.layout, chosen, reserved=WORK)
        shown = dataclasses.replace(
            shown, files=part.files, links=part.links, directories=part.directories
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
