"""How a choice of files is written down: in markers, beside snapshots, beside mounts. Pure.

The same choice gives the same bytes, so what is made of them has the same digest.
"""

from __future__ import annotations

from typing import Any

import msgspec

from snapshotter.artifact.errors import ArtifactError, PatternError
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.selection import Selection

EVERYTHING = Selection()
PATTERN_LIMIT = 128
"""Patterns of one choice: each is compared with each path."""
ASKED_LIMIT = 64
"""Of those that an image brings, for any may; the rest is for what a node adds."""
SETTINGS_LIMIT = 16
"""Of those in one table of the configuration."""


class _Written(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    include: list[str] = []
    exclude: list[str] = []
    categories: list[Category] = []
    exclude_categories: list[Category] = []


def write_choice(selection: Selection, limit: int = PATTERN_LIMIT) -> dict[str, Any]:
    """For JSON; what is not chosen by is left out, so everything is ``{}``.

    Raises :class:`ArtifactError` when it has more patterns than ``limit``.
    """
    _check_count(selection, limit)
    written = _Written(
        include=list(selection.include),
        exclude=list(selection.exclude),
        categories=sorted(selection.categories),
        exclude_categories=sorted(selection.exclude_categories),
    )
    found: dict[str, Any] = msgspec.to_builtins(written)
    return found


def read_choice(written: object, limit: int = PATTERN_LIMIT) -> Selection:
    """:class:`ArtifactError` for what :func:`write_choice` of this version does not write."""
    try:
        found = msgspec.convert(written, _Written)
        selection = Selection(
            tuple(found.include),
            tuple(found.exclude),
            frozenset(found.categories),
            frozenset(found.exclude_categories),
        )
    except (msgspec.ValidationError, PatternError) as error:
        raise ArtifactError(
            f"a choice of files that this version cannot read: {error}; "
            "upgrade modelpack-snapshotter, or pull the model again"
        ) from None
    _check_count(selection, limit)
    return selection


def _check_count(selection: Selection, limit: int) -> None:
    count = len(selection.include) + len(selection.exclude)
    if count > limit:
        raise ArtifactError(f"a choice of files by {count} patterns: at most {limit} are taken")


def encode_choice(selection: Selection) -> str:
    """One line of JSON; empty for everything."""
    return msgspec.json.encode(write_choice(selection)).decode() if selection else ""


def decode_choice(text: str) -> Selection:
    """What :func:`encode_choice` wrote; :class:`ArtifactError` for anything else."""
    if not text:
        return EVERYTHING
    try:
        return read_choice(msgspec.json.decode(text))
    except msgspec.DecodeError as error:
        raise ArtifactError(f"a choice of files cannot be read: {error}") from None


def both(first: Selection, then: Selection) -> Selection:
    """What neither leaves out; patterns of ``then`` count more, so with ``!`` it takes back."""
    return Selection(
        exclude=(*first.exclude, *then.exclude),
        exclude_categories=first.exclude_categories | then.exclude_categories,
        include=(*first.include, *then.include),
        categories=first.categories & then.categories
        if first.categories and then.categories
        else first.categories | then.categories,
    )


def describe_choice(selection: Selection) -> str:
    """For people: ``exclude '*.bin', category doc``."""
    said = []
    if selection.include:
        said.append(f"only {_quoted(selection.include)}")
    if selection.exclude:
        said.append(f"exclude {_quoted(selection.exclude)}")
    if selection.categories:
        said.append(f"only category {', '.join(sorted(selection.categories))}")
    if selection.exclude_categories:
        said.append(f"exclude category {', '.join(sorted(selection.exclude_categories))}")
    return "; ".join(said)


def _quoted(patterns: tuple[str, ...]) -> str:
    return ", ".join(repr(pattern[:120]) for pattern in patterns)
