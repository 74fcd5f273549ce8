"""`modelpack inspect`: what a reference holds, without downloading it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import click

from snapshotter.artifact.categories import category_of
from snapshotter.artifact.config import model_facts
from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.layers import Layer, layers
from snapshotter.artifact.layout import File, Link
from snapshotter.artifact.manifest import Manifest
from snapshotter.cli.inspect_view import show
from snapshotter.cli.local import models_here
from snapshotter.cli.opened import Opened, opened, platform_option, unpack_option
from snapshotter.cli.options import Settings, json_option, plain_http_option, terminal
from snapshotter.copies.attached import Attached, attached
from snapshotter.copies.content import tensors_of
from snapshotter.copies.survey import Survey
from snapshotter.registry.errors import RegistryError
from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.formats import indexer_of
from snapshotter.tensors.index import Array, TensorIndex

_CONFIG_LIMIT = 8 << 20
_AT_ONCE = 8
"""Files whose headers are read at the same time."""


@click.command()
@click.argument("reference")
@click.option(
    "--tensors",
    "with_tensors",
    is_flag=True,
    help="Also list the tensors of safetensors and GGUF files: name, type, shape, bytes.",
)
@unpack_option
@platform_option
@plain_http_option
@json_option
@click.pass_obj
def inspect(
    settings: Settings,
    reference: str,
    with_tensors: bool,
    unpack: bool,
    platform: Platform | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Show what the model REFERENCE is: its facts, files, signatures, and how much is here.

    Downloads manifest and config, and the headers of tar layers; with --tensors also those
    of weights. Compressed layers have to be read through to know their files, which is done
    for 64 MiB of them, or for all with --unpack.

    \b
    Examples:
      modelpack inspect registry.example.com/models/qwen3:8b
      modelpack inspect --tensors registry.example.com/models/qwen3:8b
      modelpack inspect registry.example.com/models/qwen3:8b --json | jq '.files[].path'
    """
    with opened(settings, reference, platform=platform, plain_http=plain_http) as model:
        found = model.survey(unpack=unpack)
        report = _report(model, found)
        if with_tensors:
            report["tensors"] = list(_tensors(model, found))
        report["fetched_bytes"] = model.blobs.fetched_bytes + model.manifest.config.size
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        show(report, found, terminal())


def file_table(file: File, layer_types: dict[int, str]) -> dict[str, Any]:
    """Of one file, for JSON; sizes in bytes."""
    return {
        "path": file.path,
        "size": file.size,
        "category": category_of(file.path, file.size, file.category).value,
        "encoding": layer_types[file.layer],
        "digest": file.digest,
        "offset": file.offset,
        "mode": f"{file.mode:o}",
        "mtime_ns": file.mtime_ns,
    }


def encodings(manifest: Manifest) -> dict[int, str]:
    """How each layer that is served is packed, by its place in the manifest."""
    return {layer.number: layer.type.encoding.value for layer in layers(manifest, [])}


def _report(model: Opened, found: Survey) -> dict[str, Any]:
    """All sizes in bytes; ``size`` counts a blob that several files share once."""
    manifest = model.manifest
    config = model.registry.blob(model.reference, manifest.config, limit=_CONFIG_LIMIT)
    types = encodings(manifest)
    report = {
        "reference": str(model.reference),
        "digest": manifest.digest,
        "artifact_type": manifest.artifact_type or "",
        "config": {
            "media_type": manifest.config.media_type,
            "digest": manifest.config.digest,
            "size": manifest.config.size,
            **dataclasses.asdict(model_facts(config)),
        },
        "annotations": dict(manifest.annotations),
        "size": sum({layer.digest: layer.size for layer in manifest.layers}.values()),
        "layers": [_layer(layer) for layer in layers(manifest, [])],
        "files": [file_table(file, types) for file in found.layout.files],
        "links": [_link(link) for link in found.layout.links],
        "unread_layers": [archive.number for archive in found.unread],
        "warnings": list(found.layout.warnings),
        "node": models_here(model.settings, manifest.digest)[0],
    }
    return report | _referrers(model)


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "path": layer.name or "",
        "media_type": layer.descriptor.media_type,
        "category": layer.type.category.value,
        "encoding": layer.type.encoding.value,
        "digest": layer.descriptor.digest,
        "size": layer.descriptor.size,
    }


def _link(link: Link) -> dict[str, Any]:
    return {"path": link.path, "target": link.target, "digest": link.digest}


def _referrers(model: Opened) -> dict[str, Any]:
    """A registry that does not tell is no reason to show nothing."""
    found: list[Attached] = []
    why = ""
    try:
        # What was named may be an index; signatures are of either.
        named = model.registry.resolve(model.reference).digest
        for subject in dict.fromkeys((model.ref.digest, named)):
            found += attached(model.registry, model.reference, subject)
    except RegistryError as error:
        why = str(error)
    return {"referrers": [dataclasses.asdict(one) for one in found], "referrers_error": why}


def _tensors(model: Opened, found: Survey) -> Iterator[dict[str, Any]]:
    files = [file for file in found.layout.files if indexer_of(file.path) is not None]

    def one(file: File) -> dict[str, Any]:
        try:
            index = tensors_of(file, found, model.blobs, max_ratio=model.max_ratio)
        except TensorsError as error:
            return {"path": file.path, "error": str(error)}
        assert index is not None
        return {"path": file.path, **_index(index)}

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="modelpack-tensors") as threads:
        try:
            yield from threads.map(one, files)
        except BaseException:
            model.blobs.close()
            raise


def _index(index: TensorIndex) -> dict[str, Any]:
    return {
        "format": index.format,
        "header_bytes": index.data_start,
        "parameters": sum(tensor.parameters for tensor in index.tensors),
        "metadata": {
            key: f"{value.kind}[{value.length}]" if isinstance(value, Array) else value
            for key, value in index.metadata.items()
        },
        "tensors": [
            {
                "name": tensor.name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "offset": tensor.offset,
                "size": tensor.size,
            }
            for tensor in index.tensors
        ],
    }
