"""`modelpack index`: the digests of a model's chunks, published beside it or kept on this node."""

from __future__ import annotations

import json
from pathlib import Path

import click

from snapshotter.artifact.chunks import CHUNK_SIZE
from snapshotter.artifact.digest import encoded
from snapshotter.cache.chunk_lists import OwnLists
from snapshotter.cli.options import Settings, SizeType, json_option, plain_http_option
from snapshotter.cli.progress import bytes_bar
from snapshotter.images.resolve import resolve_model
from snapshotter.pack.chunks import index_model, publish_list
from snapshotter.registry.reference import Reference
from snapshotter.units import format_size


@click.command()
@click.argument("reference")
@click.option(
    "--local",
    is_flag=True,
    help="Keep the list on this node, where it is trusted as it is; publish nothing.",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --local: for 'modelpack mount' with this cache.  [default: for the daemon]",
)
@click.option(
    "--chunk-size",
    type=SizeType(),
    default=CHUNK_SIZE,
    help="A power of two from 64KiB to 64MiB: what is fetched at least for one read.  "
    "[default: 4MiB]",
)
@plain_http_option
@json_option
@click.pass_obj
def index(
    settings: Settings,
    reference: str,
    local: bool,
    cache: Path | None,
    chunk_size: int,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Hash the model REFERENCE by chunks, so that each can be verified before it is read.

    Reads the whole model once, checks it against its digests and keeps nothing of it. The
    list is published as a referrer of the model, and counts on a node that pins its digest
    (verify.pinned_lists); with --local it stays here and counts for models mounted from
    then on.

    \b
    Examples:
      modelpack index registry.example.com/models/qwen3:8b
      modelpack index --local registry.example.com/models/qwen3:8b
    """
    if cache is not None and not local:
        raise click.UsageError("--cache is for --local")
    parsed = Reference.parse(reference)
    with (
        settings.registry(parsed, plain_http=plain_http) as registry,
        bytes_bar("hashing") as bar,
    ):
        ref, manifest = resolve_model(parsed, registry)
        indexed = index_model(manifest, registry, parsed, chunk_size=chunk_size, progress=bar)
        if local:
            root = cache / encoded(ref.digest) if cache else Path(settings.config.root)
            where = str(OwnLists(root / "chunks").put(ref.digest, indexed.raw))
        else:
            where = f"{parsed.name}@{publish_list(indexed, manifest, registry, parsed)}"
    blobs = indexed.list.blobs.values()
    if as_json:
        report = {
            "reference": str(parsed),
            "digest": ref.digest,
            "chunk_list": indexed.digest,
            "chunk_size": chunk_size,
            "chunks": sum(len(blob) for blob in blobs),
            "size": sum(blob.size for blob in blobs),
            "where": where,
        }
        click.echo(json.dumps(report))
        return
    click.echo(
        f"{parsed}: {sum(len(blob) for blob in blobs)} chunks of {format_size(chunk_size)} in "
        f"{len(blobs)} blobs, list at {where}"
    )
    if local:
        click.echo("trusted for models mounted from now on")
    else:
        click.echo(f'to trust it: [verify] pinned_lists = ["{ref.digest}={indexed.digest}"]')
