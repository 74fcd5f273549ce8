"""`modelpack fetch` and `extract`: files of a model in a directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.digest import parse_digest
from snapshotter.artifact.selection import Selection
from snapshotter.cli.local import caches
from snapshotter.cli.opened import platform_option, selection, selection_options
from snapshotter.cli.options import Settings, json_option, plain_http_option
from snapshotter.cli.progress import bytes_bar
from snapshotter.copies.copying import Copied, CopyOptions, copy_model
from snapshotter.copies.destination import WORK
from snapshotter.copies.errors import NotHere, WrongBytes
from snapshotter.copies.local import Caches, LayoutDirectory, Nearest, Source
from snapshotter.environment import raise_file_limit
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.reference import Reference
from snapshotter.units import format_size

WRONG, INTERRUPTED = 3, 130
"""Exit codes."""

output_option = click.option(
    "-o",
    "--output",
    "directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to put them; made if it is not there.",
)
force_option = click.option(
    "--force", is_flag=True, help="Replace files that are there with other content."
)


@click.command()
@click.argument("reference")
@output_option
@selection_options
@force_option
@platform_option
@plain_http_option
@json_option
@click.pass_obj
def fetch(
    settings: Settings,
    reference: str,
    directory: Path,
    patterns: tuple[str, ...],
    exclude: tuple[str, ...],
    categories: tuple[str, ...],
    exclude_categories: tuple[str, ...],
    force: bool,
    platform: Platform | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Download files of the model REFERENCE into a directory, all of them or those chosen.

    In parallel, each verified before it is put in its place. Stopped or killed, the same
    command goes on where it was. Files that are there and right are kept; blobs that this
    node has whole are not downloaded. Of a tar or a compressed layer with a chosen file all
    is downloaded, since only all of it can be verified. Ends with 3 when wrong bytes came.

    \b
    Examples:
      modelpack fetch registry.example.com/models/qwen3:8b -o ./qwen3
      modelpack fetch registry.example.com/models/qwen3:8b -o ./qwen3 -p '*.json' -p 'tokenizer*'
      modelpack fetch registry.example.com/models/qwen3:8b -o ./qwen3 --exclude-category weight
    """
    chosen = selection(patterns, exclude, categories, exclude_categories)
    parsed = Reference.parse(reference)
    with settings.registry(parsed, plain_http=plain_http) as registry:
        source = Nearest(registry, Caches(caches(settings)))
        _copy(settings, parsed, source, directory, chosen, force, platform, as_json)


@click.command()
@click.argument("source")
@output_option
@selection_options
@force_option
@platform_option
@json_option
@click.pass_obj
def extract(
    settings: Settings,
    source: str,
    directory: Path,
    patterns: tuple[str, ...],
    exclude: tuple[str, ...],
    categories: tuple[str, ...],
    exclude_categories: tuple[str, ...],
    force: bool,
    platform: Platform | None,
    as_json: bool,
) -> None:
    """Put files of a model that is on this machine into a directory; asks no registry.

    SOURCE is an OCI image layout (DIRECTORY, DIRECTORY:TAG or DIRECTORY@DIGEST), as
    'oras copy --to-oci-layout' and 'skopeo copy ... oci:' write it, or a model of
    'modelpack ls' that is here whole, by repository or with its digest. As fetch otherwise.

    \b
    Examples:
      modelpack extract ./qwen3-layout:8b -o ./qwen3
      modelpack extract registry.example.com/models/qwen3 -o ./qwen3
      modelpack extract registry.example.com/models/qwen3@sha256:... -o ./qwen3 -p '*.json'
    """
    chosen = selection(patterns, exclude, categories, exclude_categories)
    layout = _layout(source)
    if layout is not None:
        _copy(settings, layout[1], layout[0], directory, chosen, force, platform, as_json)
        return
    here = Caches(caches(settings))
    _copy(settings, _here(source, here), here, directory, chosen, force, platform, as_json)


def _copy(
    settings: Settings,
    reference: Reference,
    source: Source,
    directory: Path,
    chosen: Selection,
    force: bool,
    platform: Platform | None,
    as_json: bool,
) -> None:
    raise_file_limit()
    config = settings.config
    options = CopyOptions(
        chosen=chosen,
        replace=force,
        fetch=config.fetch,
        unpack=config.unpack,
        rules=config.mounts.rules,
    )
    try:
        ref, _ = resolve_model(reference, source, platform)
        with bytes_bar("fetching") as bar:
            copied = copy_model(ref, source, directory, options, bar)
    except WrongBytes as error:
        click.echo(f"modelpack: {error}", err=True)
        sys.exit(WRONG)
    except KeyboardInterrupt:
        kept = directory / WORK
        click.echo(
            f"modelpack: interrupted; the same command goes on from what is in {kept}", err=True
        )
        sys.exit(INTERRUPTED)
    _show(reference, ref.digest, directory, copied, as_json)


def _show(
    reference: Reference, digest: str, directory: Path, copied: Copied, as_json: bool
) -> None:
    files = copied.plan.files
    for pattern in copied.plan.unused:
        click.echo(f"modelpack: no file matches {pattern!r}", err=True)
    if as_json:
        report = {
            "reference": str(reference),
            "digest": digest,
            "directory": str(directory),
            "fetched_bytes": copied.fetched_bytes,
            "files": [
                {
                    "path": file.path,
                    "size": file.size,
                    "state": "kept" if file.path in copied.kept else "written",
                }
                for file in files
            ],
        }
        click.echo(json.dumps(report))
        return
    kept = len(copied.kept)
    click.echo(
        f"{reference}: {len(files)} files, {format_size(copied.plan.size)} in {directory}"
        + (f", {kept} of them were there" if kept else "")
    )


def _layout(source: str) -> tuple[LayoutDirectory, Reference] | None:
    """The OCI image layout that ``source`` names; None when it names none."""
    if LayoutDirectory.is_one(Path(source)):
        found = LayoutDirectory(Path(source))
        return found, found.reference(None, None)
    for mark in ("@", ":"):
        name, marked, rest = source.rpartition(mark) if mark == ":" else source.partition(mark)
        if marked and LayoutDirectory.is_one(Path(name)):
            found = LayoutDirectory(Path(name))
            digest = parse_digest(rest) if mark == "@" else None
            return found, found.reference(None if digest else rest, digest)
    if source.startswith((".", "/")):
        raise NotHere(f"{source} is no OCI image layout: it has no file oci-layout")
    return None


def _here(source: str, here: Caches) -> Reference:
    """The one model of this node that ``source`` means: tags are not known here."""
    parsed = Reference.parse(source)
    if parsed.digest is not None:
        return parsed
    known = here.digests(parsed.name)
    tagged = source.endswith(f":{parsed.tag}")
    if len(known) == 1 and not tagged:
        return parsed.with_digest(known[0])
    if not known:
        raise NotHere(
            f"nothing of {parsed.name} is on this node: 'modelpack ls' shows what is; "
            "'modelpack fetch' gets it"
        )
    listed = ", ".join(f"{parsed.name}@{digest}" for digest in known[:5])
    raise NotHere(f"which tag a model had is not known on this node; say which is meant: {listed}")
