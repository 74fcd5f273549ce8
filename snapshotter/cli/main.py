"""`modelpack`: build, push, look at, copy, mount and measure models; examine a node."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click
import structlog

from snapshotter import __version__
from snapshotter.cli.bench import bench
from snapshotter.cli.build import build, push
from snapshotter.cli.cat import cat
from snapshotter.cli.config import config
from snapshotter.cli.doctor import doctor
from snapshotter.cli.fetch import extract, fetch
from snapshotter.cli.index import index
from snapshotter.cli.inspect import inspect
from snapshotter.cli.ls import ls
from snapshotter.cli.mount import mount, umount
from snapshotter.cli.options import Settings
from snapshotter.cli.pull import pull
from snapshotter.cli.status import status
from snapshotter.cli.tree import tree
from snapshotter.cli.verify import verify
from snapshotter.config import DEFAULT_PATH
from snapshotter.errors import ModelpackError

EXAMPLES = """\b
Examples:
  modelpack build ./Qwen3-8B -t registry.example.com/models/qwen3:8b
  modelpack push registry.example.com/models/qwen3:8b
  modelpack inspect --tensors registry.example.com/models/qwen3:8b
  modelpack cat registry.example.com/models/qwen3:8b config.json
  modelpack fetch registry.example.com/models/qwen3:8b -o ./qwen3 -p '*.json'
  modelpack ls
  modelpack mount registry.example.com/models/qwen3:8b /mnt/qwen3 -d
  modelpack pull --namespace k8s.io registry.example.com/models/qwen3:8b
  modelpack status
  modelpack verify
  modelpack bench --list
  modelpack doctor
  modelpack config containerd
"""


@click.group(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="modelpack")
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The daemon's configuration file, for what it says of registries and sockets.  "
    f"[default: {DEFAULT_PATH} where it exists]",
)
@click.pass_context
def cli(context: click.Context, config_path: Path | None) -> None:
    """Models as OCI artifacts: build, push, inspect, fetch, pull, mount.

    A model is a CNCF ModelPack artifact in an ordinary registry. Nothing here
    needs containerd but `pull`, and nothing needs root but `mount` without
    fusermount3 and `pull`.
    """
    context.obj = Settings(config_path)
    _log_warnings_only()


for command in (
    *(build, push, index, inspect, tree, cat, fetch, extract, ls, pull, mount, umount),
    *(status, verify, bench, doctor, config),
):
    cli.add_command(command)


def main() -> None:
    """Entry point: one line and status 1 for what a person can mend, no traceback."""
    try:
        cli(standalone_mode=False, prog_name="modelpack")
    except ModelpackError as error:
        _fail(str(error), 1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except BrokenPipeError:
        # Whoever read our output has seen enough; keep the interpreter's own flush silent.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(message: str, status: int) -> None:
    click.echo(f"modelpack: {message}", err=True)
    sys.exit(status)


def _log_warnings_only() -> None:
    structlog.configure(
        processors=[structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
