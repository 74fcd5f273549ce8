"""`modelpack pin` and `unpin`: models whose bytes stay in the cache."""

from __future__ import annotations

import json
from pathlib import Path

import click

from snapshotter.cli.asking import LONG_SECONDS, api_option, ask
from snapshotter.cli.options import Settings, json_option
from snapshotter.units import format_size


@click.command()
@click.argument("reference")
@api_option
@json_option
@click.pass_obj
def pin(settings: Settings, reference: str, api: Path | None, as_json: bool) -> None:
    """Keep the bytes of the model REFERENCE in the cache, whatever else needs room.

    What is in the cache of it, and what comes when it is read, stays until it is unpinned.
    Nothing is fetched for it. A tag is pinned as what it means now.

    \b
    Examples:
      modelpack pin registry.example.com/models/qwen3:8b
      modelpack status
    """
    answer = ask(
        api or settings.config.api_address,
        "/v1/pin",
        method="POST",
        seconds=LONG_SECONDS,
        reference=reference,
    )
    if as_json:
        click.echo(json.dumps(answer))
        return
    click.echo(f"{reference}: {format_size(answer['size_bytes'])} pinned ({answer['digest']})")
    if answer["pinned_bytes"] > answer["allowed_bytes"]:
        click.echo(
            f"modelpack: pinned models have {format_size(answer['pinned_bytes'])}, but the cache "
            f"may take {format_size(answer['allowed_bytes'])}: not all of it can be kept",
            err=True,
        )


@click.command()
@click.argument("reference")
@api_option
@json_option
@click.pass_obj
def unpin(settings: Settings, reference: str, api: Path | None, as_json: bool) -> None:
    """Let the bytes of the model REFERENCE go again when room is needed.

    REFERENCE is what it was pinned as, or the digest of its manifest; 'modelpack status'
    shows both.

    \b
    Example:
      modelpack unpin registry.example.com/models/qwen3:8b
    """
    answer = ask(
        api or settings.config.api_address, "/v1/unpin", method="POST", reference=reference
    )
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for one in answer["unpinned"]:
            click.echo(f"{', '.join(one['references'])}: no longer pinned ({one['digest']})")
