"""`modelpack build` and `push`: from a directory to an artifact in a registry."""

from __future__ import annotations

import json
from pathlib import Path

import click

from snapshotter.artifact.config import ModelFacts
from snapshotter.cli.options import Settings, json_option, plain_http_option
from snapshotter.cli.progress import bytes_bar
from snapshotter.pack.build import build as build_model
from snapshotter.pack.chunks import index_build
from snapshotter.pack.push import push as push_model
from snapshotter.pack.record import BuildStore
from snapshotter.registry.reference import Reference
from snapshotter.units import format_size

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where builds are remembered; no copies of files.  [default: ~/.local/share/modelpack]",
)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-t", "--tag", "reference", required=True, help="The reference to build under.")
@click.option("--tar", is_flag=True, help="Each file in a tar layer of its own, not raw.")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave files out; repeatable.")
@click.option("--name", default="", help="The model's name.  [default: the repository's]")
@click.option("--family", default="", help="For instance qwen3.")
@click.option("--version", default="", help="The model's version.")
@click.option("--license", "licenses", multiple=True, help="SPDX identifier; repeatable.")
@click.option("--param-size", default="", help="For instance 8b.  [default: read from the files]")
@click.option("--precision", default="", help="For instance bf16.  [default: read from the files]")
@click.option("--quantization", default="", help="For instance gptq.")
@store_option
@json_option
def build(
    directory: Path,
    reference: str,
    tar: bool,
    exclude: tuple[str, ...],
    name: str,
    family: str,
    version: str,
    licenses: tuple[str, ...],
    param_size: str,
    precision: str,
    quantization: str,
    store: Path | None,
    as_json: bool,
) -> None:
    """Describe the model in DIRECTORY as a ModelPack artifact, ready to push.

    Hashes every file; copies none. The same files give the same digests
    wherever and whenever they are built.

    \b
    Examples:
      modelpack build ./Qwen3-8B -t registry.example.com/models/qwen3:8b
      modelpack build . -t localhost:5000/m:1 --exclude '*.onnx' --license apache-2.0
    """
    facts = ModelFacts(
        name=name,
        family=family,
        version=version,
        licenses=licenses,
        param_size=param_size,
        precision=precision,
        quantization=quantization,
    )
    with bytes_bar("hashing") as bar:
        built = build_model(
            directory,
            Reference.parse(reference),
            BuildStore(store),
            tar=tar,
            facts=facts,
            exclude=exclude,
            progress=bar,
        )
    for note in built.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        layers = [
            {
                "path": layer.path,
                "category": layer.category.value,
                "digest": layer.digest,
                "size": layer.size,
            }
            for layer in built.layers
        ]
        report = {
            "reference": str(built.reference),
            "digest": built.digest,
            "size": built.size,
            "layers": layers,
        }
        click.echo(json.dumps(report))
    else:
        click.echo(
            f"{built.reference}: {len(built.layers)} files, {format_size(built.size)}\n"
            f"{built.digest}"
        )


@click.command()
@click.argument("reference")
@click.option(
    "--chunks",
    is_flag=True,
    help="Publish the digests of its chunks beside it, so that readers who trust that list can "
    "verify each chunk before it is read; hashes every file once more.",
)
@store_option
@plain_http_option
@json_option
@click.pass_obj
def push(
    settings: Settings,
    reference: str,
    chunks: bool,
    store: Path | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Upload what was built under REFERENCE; what the registry has is not sent again.

    Credentials come from Docker's config.json: `docker login` is enough.

    \b
    Examples:
      modelpack push registry.example.com/models/qwen3:8b
      modelpack push --chunks registry.example.com/models/qwen3:8b
    """
    parsed = Reference.parse(reference)
    with (
        settings.registry(parsed, plain_http=plain_http) as registry,
        bytes_bar("pushing") as bar,
    ):
        pushed = push_model(parsed, BuildStore(store), registry, progress=bar)
        indexed = index_build(BuildStore(store).load(parsed), registry, parsed) if chunks else None
    if as_json:
        report = {
            "reference": str(pushed.reference),
            "digest": pushed.digest,
            "pushed_blobs": pushed.pushed,
            "skipped_blobs": pushed.skipped,
            "sent_bytes": pushed.bytes,
            "chunk_list": indexed.digest if indexed is not None else None,
        }
        click.echo(json.dumps(report))
    else:
        click.echo(
            f"{pushed.reference}: {format_size(pushed.bytes)} sent in {pushed.pushed} blobs, "
            f"{pushed.skipped} were there\n{pushed.digest}"
        )
        if indexed is not None:
            click.echo(f"chunk list {indexed.digest}")
