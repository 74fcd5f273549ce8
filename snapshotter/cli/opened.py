"""A model in its registry, open for reading; and the options of commands that read one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.errors import ArtifactError, PatternError
from snapshotter.artifact.layers import layers
from snapshotter.artifact.manifest import Manifest
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.platforms import parse_platform
from snapshotter.artifact.selection import Selection
from snapshotter.cli.options import Settings
from snapshotter.copies.reading import Blobs
from snapshotter.copies.survey import UNASKED, Survey, survey
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference

_Command = TypeVar("_Command", bound=Callable[..., Any])

_CATEGORIES = [category.value for category in Category]


class _Platform(click.ParamType[Platform]):
    name = "platform"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> Platform:
        try:
            return parse_platform(value)
        except ArtifactError as error:
            self.fail(str(error), param, context)


platform_option = click.option(
    "--platform",
    type=_Platform(),
    metavar="OS/ARCH",
    help="Of an index that lists several: linux/arm64 for instance.  [default: this machine's]",
)
unpack_option = click.option(
    "--unpack",
    is_flag=True,
    help="Also list what is in large compressed layers: they are downloaded for it, and not kept.",
)


def selection_options(command: _Command) -> _Command:
    """``--patterns``, ``--exclude``, ``--category`` and ``--exclude-category``."""
    for option in (
        click.option(
            "--exclude-category",
            "exclude_categories",
            multiple=True,
            type=click.Choice(_CATEGORIES),
            help="No files of this category; repeatable.",
        ),
        click.option(
            "--category",
            "categories",
            multiple=True,
            type=click.Choice(_CATEGORIES),
            help="Only files of this category; repeatable.",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            help="No files that match, '!' before a pattern takes back; repeatable.",
        ),
        click.option(
            "-p",
            "--patterns",
            "--pattern",
            multiple=True,
            metavar="PATTERN",
            help="Only files that match, as in .gitignore: '*.json', 'original/*'; repeatable.",
        ),
    ):
        command = option(command)
    return command


def selection(
    patterns: tuple[str, ...],
    exclude: tuple[str, ...],
    categories: tuple[str, ...],
    exclude_categories: tuple[str, ...],
) -> Selection:
    """What the options say; a usage error when a pattern makes no sense."""
    try:
        return Selection(
            patterns,
            exclude,
            frozenset(map(Category, categories)),
            frozenset(map(Category, exclude_categories)),
        )
    except PatternError as error:
        raise click.UsageError(str(error)) from None


@dataclass(frozen=True)
class Opened:
    reference: Reference
    registry: Registry
    ref: ModelRef
    manifest: Manifest
    blobs: Blobs
    settings: Settings

    @property
    def max_ratio(self) -> int:
        return self.settings.config.unpack.max_ratio

    def survey(self, *, unpack: bool = False) -> Survey:
        return survey(
            self.manifest,
            self.blobs,
            rules=self.settings.config.mounts.rules,
            max_ratio=self.max_ratio,
            unasked=None if unpack else UNASKED,
        )


@contextmanager
def opened(
    settings: Settings, reference: str, *, platform: Platform | None, plain_http: bool
) -> Iterator[Opened]:
    """The model ``reference`` names, with its manifest; raises :class:`ModelpackError`."""
    parsed = Reference.parse(reference)
    with settings.registry(parsed, plain_http=plain_http) as registry:
        ref, manifest = resolve_model(parsed, registry, platform)
        for _ in layers(manifest, []):
            pass  # says which layer cannot be read, before anything is
        with Blobs(registry, ref, settings.config.fetch) as blobs:
            yield Opened(parsed, registry, ref, manifest, blobs, settings)
