"""`modelpack cat`: the bytes of one file of a model."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from snapshotter.artifact.descriptor import Platform
from snapshotter.cli.fetch import WRONG
from snapshotter.cli.inspect import encodings, file_table
from snapshotter.cli.opened import opened, platform_option
from snapshotter.cli.options import Settings, SizeType, json_option, plain_http_option
from snapshotter.copies.content import content_of
from snapshotter.copies.errors import CopyError, WrongBytes
from snapshotter.copies.survey import Survey


@click.command()
@click.argument("reference")
@click.argument("path")
@click.option(
    "--offset",
    type=SizeType(),
    default=0,
    help="Where to begin, in bytes or as 4MiB.  [default: 0]",
)
@click.option("--length", type=SizeType(), help="How much at most.  [default: to the end]")
@platform_option
@plain_http_option
@json_option
@click.pass_obj
def cat(
    settings: Settings,
    reference: str,
    path: str,
    offset: int,
    length: int | None,
    platform: Platform | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Write the file PATH of the model REFERENCE to standard output as it arrives.

    Nothing is kept on the disk. A whole file is checked against its digest: when wrong bytes
    came it ends with 3, and its last bytes are not written. Parts of a file, and small
    files out of large tars, are as the registry gave them. --json says what the file is instead
    of writing it.

    \b
    Examples:
      modelpack cat registry.example.com/models/qwen3:8b config.json | jq .
      modelpack cat registry.example.com/models/qwen3:8b model.safetensors --length 8 | xxd
    """
    with opened(settings, reference, platform=platform, plain_http=plain_http) as model:
        path = path.removeprefix("./")
        found = _survey(model.survey(), path) or model.survey(unpack=True)
        file = found.file(path)
        if as_json:
            click.echo(json.dumps(file_table(file, encodings(model.manifest))))
            return
        try:
            with content_of(
                file, found, model.blobs, max_ratio=model.max_ratio, offset=offset, length=length
            ) as pieces:
                for piece in pieces:
                    _write(piece)
            sys.stdout.buffer.flush()
        except WrongBytes as error:
            click.echo(f"modelpack: {error}", err=True)
            sys.exit(WRONG)


def _survey(found: Survey, path: str) -> Survey | None:
    """``found`` when it is enough: the file is in it, or nothing was left out."""
    known = any(file.path == path for file in found.layout.files)
    return found if known or not found.unread else None


def _write(piece: Any) -> None:
    try:
        sys.stdout.buffer.write(piece)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CopyError(f"cannot write to standard output: {error.strerror}") from None
