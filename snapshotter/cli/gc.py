"""`modelpack gc`: free what nobody wants any more, now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from snapshotter.cli.asking import LONG_SECONDS, api_option, ask
from snapshotter.cli.options import Settings, json_option, terminal
from snapshotter.units import format_size

_REASONS = {"unwanted": "no model has it any more", "space": "least recently used"}


@click.command()
@click.option("--all", "everything", is_flag=True, help="Do not wait for the grace time to end.")
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@api_option
@json_option
@click.pass_obj
def gc(
    settings: Settings, everything: bool, dry_run: bool, api: Path | None, as_json: bool
) -> None:
    """Free the blobs of models that nobody wants, and what is over the quota.

    Nobody wants a model that is not mounted and not pinned, and of which containerd has no
    image and no snapshot. The daemon does the same by itself, from time to time, after the
    grace time of [cache]. While containerd does not answer nothing is freed.

    \b
    Examples:
      modelpack gc --dry-run
      modelpack gc --all
    """
    flags = {"all": everything, "dry_run": dry_run}
    answer = ask(
        api or settings.config.api_address,
        "/v1/gc",
        method="POST",
        seconds=LONG_SECONDS,
        **{name: "1" for name, given in flags.items() if given},
    )
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show(answer, terminal())


def _show(answer: dict[str, Any], console: Console) -> None:
    size = format_size(answer["freed_bytes"])
    console.print(f"would free {size}" if answer["dry_run"] else f"freed {size}")
    if not answer["freed"]:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("BLOB", "SIZE", "WHY", "OF"):
        table.add_column(column, overflow="fold")
    for one in answer["freed"]:
        table.add_row(
            one["digest"] + (" (unpacked)" if one["kind"] == "unpacked" else ""),
            format_size(one["bytes"]),
            _REASONS[one["reason"]] + ("" if one["whole"] else ", a part"),
            ", ".join(one["models"]),
        )
    console.print(table)
