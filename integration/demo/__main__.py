"""`script/demo`: everything is made, measured, shown and removed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import grpc
from rich.console import Console

from integration.demo.reading import WrongBytes
from integration.demo.report import Run, compare
from integration.demo.runs import image_volumes, lazily, ordinarily
from integration.demo.stage import DemoError, Stage
from integration.harness.container import ContainerError
from integration.harness.cri import ExecError
from integration.harness.machine import CommandError
from integration.harness.processes import ProcessError, signals_unwind
from snapshotter.errors import ModelpackError
from snapshotter.units import ByteSize


class _Size(click.ParamType[ByteSize]):
    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> ByteSize:
        try:
            return ByteSize.parse(value)
        except ModelpackError as error:
            self.fail(str(error), param, ctx)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "path", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--size", type=_Size(), default="1GiB", show_default=True, help="Of the model made.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write every number here.",
)
def main(path: Path | None, size: ByteSize, json_path: Path | None) -> None:
    """Start a container whose model is there at once, while its bytes are in the registry.

    The model is the directory PATH, or one made of random numbers. A real containerd
    and runc run the container, a real registry on loopback holds the model; an
    ordinary pull of the same bytes is measured beside it. Nothing is left behind.
    """
    console = Console(highlight=False)
    try:
        with signals_unwind() as resources:
            stage = Stage(resources, console, size=size, directory=path and path.resolve())
            lazy = lazily(stage)
            ordinary = ordinarily(stage)
            volumes = image_volumes(stage) if stage.containerd.release.has_image_volumes else None
            compare(console, lazy, ordinary)
            if json_path is not None:
                json_path.write_text(json.dumps(_numbers(stage, lazy, ordinary, volumes), indent=2))
    except (DemoError, WrongBytes, ContainerError, ExecError, CommandError, ProcessError) as error:
        console.print(f"demo: {error}", markup=False, style="red")
        sys.exit(1)
    except grpc.RpcError as error:
        console.print(f"demo: containerd: {error.details()}", markup=False, style="red")
        sys.exit(1)


def _numbers(
    stage: Stage, lazy: Run, ordinary: Run, volumes: dict[str, Any] | None
) -> dict[str, Any]:
    return {
        "size_bytes": stage.size,
        "files": len(stage.sums.splitlines()),
        "containerd": stage.containerd.release.exact(),
        "modelpack": lazy.numbers()
        | {
            "fetched_at_start": round(lazy.fetched["start"] / stage.size, 5),
            "rss_anon_bytes": lazy.anonymous_bytes,
        },
        "overlayfs": ordinary.numbers(),
        "whole_read_ratio": round(ordinary.since_start("whole") / lazy.since_start("whole"), 3),
        "image_volumes": volumes,
    }


if __name__ == "__main__":
    main(prog_name="script/demo")
