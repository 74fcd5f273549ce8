"""Options that leave out files of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.selection import Selection

_Command = TypeVar("_Command", bound=Callable[..., Any])


def exclude_options(command: _Command) -> _Command:
    """``--exclude`` and ``--exclude-category``, for :func:`left_out`."""
    by_category = click.option(
        "--exclude-category",
        "exclude_categories",
        multiple=True,
        type=click.Choice([category.value for category in Category]),
        help="Leave out all files of this category. May be given again.",
    )
    by_pattern = click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out the files that match, as in .gitignore: '*.bin', 'original/'; a later "
        "'!PATTERN' takes back. May be given again.",
    )
    return by_pattern(by_category(command))


def left_out(exclude: tuple[str, ...], exclude_categories: tuple[str, ...]) -> Selection:
    """Raises :class:`PatternError`."""
    return Selection(
        exclude=exclude, exclude_categories=frozenset(map(Category, exclude_categories))
    )
