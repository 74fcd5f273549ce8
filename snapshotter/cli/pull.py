"""`modelpack pull`: make a model known to containerd; its bytes stay where they are."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from snapshotter.artifact.choice import describe_choice, write_choice
from snapshotter.cli.choosing import exclude_options, left_out
from snapshotter.cli.options import Settings, json_option, plain_http_option
from snapshotter.images.containerd import Containerd
from snapshotter.images.direct import DOCKER_NAMESPACE
from snapshotter.images.puller import Form
from snapshotter.images.puller import pull as pull_model
from snapshotter.registry.reference import Reference
from snapshotter.units import format_size


@click.command()
@click.argument("reference")
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    envvar="CONTAINERD_NAMESPACE",
    help="containerd's namespace: default (ctr, nerdctl), k8s.io (Kubernetes), moby (Docker).",
)
@click.option(
    "--docker", is_flag=True, help=f"For Docker: the same as --namespace {DOCKER_NAMESPACE}."
)
@click.option(
    "-a",
    "--address",
    type=click.Path(path_type=Path),
    envvar="CONTAINERD_ADDRESS",
    help="containerd's socket.  [default: that of the configuration]",
)
@click.option(
    "--as",
    "form",
    type=click.Choice(["auto", "direct", "stub"]),
    default="auto",
    show_default=True,
    help="What containerd is given: the model's own manifest (image volumes of containerd >= 2.1, "
    "Docker by digest) or a stub image (every other client).",
)
@exclude_options
@plain_http_option
@json_option
@click.pass_obj
def pull(
    settings: Settings,
    reference: str,
    namespace: str,
    docker: bool,
    address: Path | None,
    form: Form,
    exclude: tuple[str, ...],
    exclude_categories: tuple[str, ...],
    plain_http: bool,
    as_json: bool,
) -> None:
    """Make the model REFERENCE known to containerd, without downloading it.

    Containers of this node can then mount it; the bytes come while they are
    read. Works for tags and for digests, and again after images were removed.
    Needs root, as containerd's socket does.

    With --exclude or --exclude-category the files that are left out are neither
    shown nor fetched; containerd is then given a stub image. A later pull of
    the same name without them shows everything again.

    \b
    Examples:
      modelpack pull registry.example.com/models/qwen3:8b
      modelpack pull -n k8s.io registry.example.com/models/qwen3@sha256:...
      modelpack pull --exclude 'original/' registry.example.com/models/llama3:8b
      modelpack pull --docker registry.example.com/models/qwen3@sha256:...
    """
    namespace = DOCKER_NAMESPACE if docker else namespace
    parsed = Reference.parse(reference)
    selection = left_out(exclude, exclude_categories)
    with (
        settings.registry(parsed, plain_http=plain_http) as registry,
        Containerd(address or Path(settings.config.containerd.address)) as containerd,
    ):
        pulled = pull_model(
            parsed, registry, containerd, namespace=namespace, form=form, selection=selection
        )
    if as_json:
        fields = dataclasses.asdict(pulled) | {
            "namespace": namespace,
            "model": str(pulled.model),
            "chosen": write_choice(selection),
        }
        click.echo(json.dumps(fields))
    else:
        click.echo(
            f"{pulled.name}: {format_size(pulled.size)} known to containerd in namespace "
            f"{namespace} as {'the model itself' if pulled.form == 'direct' else 'a stub image'} "
            f"({pulled.target}){f'; {describe_choice(selection)}' if selection else ''}"
        )
