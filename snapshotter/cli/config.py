"""`modelpack config`: the configuration of a node's programs, for this node."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click

from snapshotter.artifact.places import is_registry
from snapshotter.cli.options import Settings, json_option
from snapshotter.doctor import samples
from snapshotter.errors import ModelpackError
from snapshotter.images.containerd import Containerd
from snapshotter.images.errors import ContainerdError
from snapshotter.images.platform import host_platform
from snapshotter.registry.reference import DOCKER_HUB

_NEWEST = (2, 1)


class CannotWrite(ModelpackError):
    """A file is in the way, or its directory cannot be written."""


@click.command()
@click.argument("program", type=click.Choice(["containerd", "docker", "k3s", "kubelet"]))
@click.option(
    "--containerd-version",
    metavar="X.Y",
    help="containerd's version.  [default: that of the containerd that runs, else 2.1]",
)
@click.option(
    "--registry",
    "registries",
    metavar="HOST",
    multiple=True,
    help="A registry that holds models; may be given more than once. For clients that pull by "
    "tag: image volumes of containerd 2.1 and newer need none.",
)
@click.option(
    "--default",
    "default",
    is_flag=True,
    help="Make modelpack the default snapshotter of pods, so that they need no runtimeClassName.",
)
@click.option(
    "--write",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write the files below DIRECTORY (/ for this node) instead of printing them. "
    "A file that is there already is never changed.",
)
@json_option
@click.pass_obj
def config(
    settings: Settings,
    program: str,
    containerd_version: str | None,
    registries: tuple[str, ...],
    default: bool,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Print what containerd, docker, k3s or kubelet of this node must be told.

    Paths and sockets are those of the daemon's configuration. Lines in front of each
    file say where it belongs and what to do afterwards.

    \b
    Examples:
      modelpack config containerd
      modelpack config containerd --registry registry.example.com --write /
      modelpack config k3s
    """
    for registry in registries:
        if registry != DOCKER_HUB and not is_registry(registry):
            raise click.BadParameter(f"{registry!r} is no registry host", param_hint="--registry")
    files = _files(settings, program, containerd_version, registries, default=default)
    if as_json:
        click.echo(json.dumps([{"path": f.path, "text": f.text, "notes": f.notes} for f in files]))
    elif directory is not None:
        _write(files, directory)
    else:
        click.echo("\n".join(_print(file) for file in files), nl=False)


def _files(
    settings: Settings,
    program: str,
    version: str | None,
    registries: tuple[str, ...],
    *,
    default: bool,
) -> list[samples.File]:
    configured, architecture = settings.config, host_platform().architecture
    if program == "kubelet":
        return samples.kubelet_files(configured)
    if program == "k3s":
        return samples.k3s_files(configured, architecture, registries, default=default)
    release = _version(version, configured.containerd.address)
    if program == "docker":
        return samples.docker_files(configured, release, architecture, registries)
    return samples.containerd_files(configured, release, architecture, registries, default=default)


def _version(given: str | None, address: str) -> tuple[int, int]:
    if given is not None:
        match = re.match(r"v?(\d+)\.(\d+)", given)
        if match is None or (int(match[1]), int(match[2])) < (1, 6):
            raise click.BadParameter(
                f"{given!r}: expected 1.6 or newer, such as 2.1", param_hint="--containerd-version"
            )
        return int(match[1]), int(match[2])
    try:
        with Containerd(Path(address)) as containerd:
            return containerd.version()
    except ContainerdError as error:
        click.echo(f"modelpack: taking containerd for 2.1 or newer: {error}", err=True)
        return _NEWEST


def _print(file: samples.File) -> str:
    head = [f"# ---- {file.path}", *(f"# {note}" for note in file.notes)]
    return "\n".join(head) + "\n" + file.text


def _write(files: list[samples.File], directory: Path) -> None:
    """All of them or, when one is in the way, none."""
    targets = [(directory / file.path.lstrip("/"), file) for file in files]
    for target, file in targets:
        if target.exists() and target.read_text(errors="replace") != file.text:
            raise CannotWrite(
                f"{target} exists and is left as it is, and nothing was written; merge what "
                "the same command prints without --write"
            )
    for target, file in targets:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(file.text)
        except OSError as error:
            raise CannotWrite(f"cannot write {target}: {error.strerror}") from None
        click.echo(str(target))
        for note in file.notes:
            click.echo(f"  {note}")
