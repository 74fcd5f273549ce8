"""`modelpack ls`: the models on this node."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from snapshotter.cli.local import models_here
from snapshotter.cli.options import Settings, json_option, terminal
from snapshotter.cli.trees import plain, short
from snapshotter.units import format_size


@click.command()
@json_option
@click.pass_obj
def ls(settings: Settings, as_json: bool) -> None:
    """List the models on this node: how large, how much of each is here, and where mounted.

    Those of the daemon (as root), whether it runs or not, and those that 'modelpack mount'
    of this user has kept. A model counts as soon as it was mounted once.

    \b
    Examples:
      modelpack ls
      modelpack ls --json | jq -r '.models[] | select(.mounted == []) | .digest'
    """
    models, why = models_here(settings)
    if why:
        click.echo(f"modelpack: {why}", err=True)
    if as_json:
        click.echo(json.dumps({"models": models}))
        return
    console = terminal()
    if not models:
        console.print("no model is on this node; 'modelpack mount' or a container brings one")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("MODEL", "DIGEST", "SIZE", "HERE", "STATE", "CACHE"):
        table.add_column(column, justify="right" if column == "SIZE" else "left", overflow="fold")
    for model in models:
        table.add_row(
            Text(plain(", ".join(model["names"]) or "unknown")),
            short(model["digest"]),
            format_size(model["size_bytes"]),
            _here(model),
            Text(plain(_state(model))),
            Text(plain(model["cache"])),
        )
    console.print(table, highlight=False)


def _here(model: dict[str, Any]) -> str:
    share = model["present_bytes"] / model["size_bytes"] if model["size_bytes"] else 1.0
    rounded = share if share >= 1 else min(share, 0.99)
    return f"{format_size(model['present_bytes'])} ({rounded:.0%})"


def _state(model: dict[str, Any]) -> str:
    states = [f"mounted at {point}" for point in model["mounted"]]
    if model.get("pinned"):
        states.append("pinned")
    return ", ".join(states) or "kept"
