"""What several commands share: settings, and options."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from snapshotter.config import Config, load_config
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference
from snapshotter.units import ByteSize, UnitError

_UNFOLDED = 10_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
plain_http_option = click.option(
    "--plain-http",
    is_flag=True,
    help="Reach the registry of REFERENCE without TLS (loopback always is).",
)


class SizeType(click.ParamType[int]):
    """Bytes, as a number or as ``4MiB``."""

    name = "size"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int:
        try:
            return int(ByteSize.parse(value))
        except UnitError as error:
            self.fail(str(error), param, context)


class Settings:
    """The daemon's configuration, for what it says of registries, sockets and reading."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @cached_property
    def config(self) -> Config:
        """Raises :class:`ConfigError`."""
        return load_config(self.path)

    @contextmanager
    def registry(self, reference: Reference, *, plain_http: bool) -> Iterator[Registry]:
        """The registries as configured; that of ``reference`` without TLS if asked for."""
        options = self.config.registry
        if plain_http:
            plain = (*options.plain_http, reference.registry)
            options = msgspec.structs.replace(options, plain_http=plain)
        registry = Registry(options, skip_hosts=(self.config.mirror.address,))
        try:
            yield registry
        finally:
            registry.close()


def terminal() -> Console:
    """Standard output: as wide as the terminal, and unfolded where it is none."""
    return Console() if sys.stdout.isatty() else Console(width=_UNFOLDED)
