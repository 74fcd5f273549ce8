"""`modelpack inspect`: what a reference holds, without downloading it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from snapshotter.artifact.config import ModelFacts, model_facts
from snapshotter.artifact.manifest import Manifest
from snapshotter.artifact.mediatypes import parse_layer_type
from snapshotter.artifact.metadata import file_name
from snapshotter.cli.options import Settings, json_option, plain_http_option, terminal
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.reference import Reference
from snapshotter.units import format_size

_CONFIG_LIMIT = 8 << 20


@click.command()
@click.argument("reference")
@plain_http_option
@json_option
@click.pass_obj
def inspect(settings: Settings, reference: str, plain_http: bool, as_json: bool) -> None:
    """Show manifest, config and files of the model REFERENCE; downloads manifest and config only.

    \b
    Examples:
      modelpack inspect registry.example.com/models/qwen3:8b
      modelpack inspect registry.example.com/models/qwen3:8b --json | jq '.layers[].path'
    """
    parsed = Reference.parse(reference)
    with settings.registry(parsed, plain_http=plain_http) as registry:
        _, manifest = resolve_model(parsed, registry)
        config = registry.blob(parsed, manifest.config, limit=_CONFIG_LIMIT)
    report = _report(parsed, manifest, model_facts(config))
    if as_json:
        click.echo(json.dumps(report, indent=2))
    else:
        _show(report, terminal())


def _report(reference: Reference, manifest: Manifest, facts: ModelFacts) -> dict[str, Any]:
    """All sizes in bytes; ``size`` counts a blob that several files share once."""
    layers = [
        {
            "path": file_name(layer.annotations) or "",
            "media_type": layer.media_type,
            "category": kind.category.value if kind else "unknown",
            "encoding": kind.encoding.value if kind else "unknown",
            "digest": layer.digest,
            "size": layer.size,
        }
        for layer in manifest.layers
        for kind in [parse_layer_type(layer.media_type)]
    ]
    return {
        "reference": str(reference),
        "digest": manifest.digest,
        "artifact_type": manifest.artifact_type or "",
        "config": {
            "media_type": manifest.config.media_type,
            "digest": manifest.config.digest,
            "size": manifest.config.size,
            **dataclasses.asdict(facts),
        },
        "annotations": dict(manifest.annotations),
        "size": sum({layer.digest: layer.size for layer in manifest.layers}.values()),
        "layers": layers,
    }


def _show(report: dict[str, Any], console: Console) -> None:
    facts = Table(box=None, show_header=False, pad_edge=False)
    config = report["config"]
    for name, value in (
        ("Reference", report["reference"]),
        ("Digest", report["digest"]),
        ("Artifact", report["artifact_type"] or config["media_type"]),
        ("Name", config["name"] or config["title"]),
        ("Family", config["family"]),
        ("Architecture", config["architecture"]),
        ("Format", config["format"]),
        ("Parameters", config["param_size"]),
        ("Precision", config["precision"] or config["quantization"]),
        ("Licence", ", ".join(config["licenses"])),
        ("Size", f"{format_size(report['size'])} in {len(report['layers'])} layers"),
    ):
        if value:
            facts.add_row(name, value)
    console.print(facts, highlight=False)
    files = Table(box=None, pad_edge=False)
    for column in ("FILE", "CATEGORY", "ENCODING", "SIZE", "DIGEST"):
        files.add_column(column, justify="right" if column == "SIZE" else "left", overflow="fold")
    for layer in report["layers"]:
        files.add_row(
            layer["path"] or "-",
            layer["category"],
            layer["encoding"],
            format_size(layer["size"]),
            layer["digest"][:19],
        )
    console.print()
    console.print(files, highlight=False)
