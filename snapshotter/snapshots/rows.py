"""Snapshots as rows of the database, and what makes no sense in them. Pure.

Disks rot, and SQLite keeps no checksums: what was read is believed only where it fits together.
A wrong parent would give a container files of another image, and a circle of them no end.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from snapshotter.artifact.digest import parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.places import is_place
from snapshotter.snapshots.snapshot import Kind, Snapshot, Usage

Row = tuple[Any, ...]


class BadRow(ValueError):
    """What is wrong with which snapshot."""


def decode_rows(rows: Iterable[Row]) -> list[Snapshot]:
    """Rows of id, name, parent's id, parent's name and the rest; :class:`BadRow`."""
    snapshots = [_snapshot(row) for row in rows]
    by_name = {snapshot.name: snapshot for snapshot in snapshots}
    if len(by_name) < len(snapshots):
        raise BadRow("two snapshots have one name")
    rooted = {""}
    for snapshot in snapshots:
        _follow(snapshot, by_name, rooted)
    return snapshots


def _follow(snapshot: Snapshot, by_name: dict[str, Snapshot], rooted: set[str]) -> None:
    """Go from parent to parent up to one that is known to lead to a root."""
    names: dict[str, None] = {}
    while snapshot.name not in rooted:
        if snapshot.name in names:
            raise BadRow(f"snapshot {snapshot.name!r:.200} is based on itself")
        names[snapshot.name] = None
        if not snapshot.parent:
            break
        snapshot = by_name[snapshot.parent]
        if snapshot.kind is not Kind.COMMITTED:
            raise BadRow(f"snapshot {snapshot.name!r:.200} has children and is not committed")
    rooted.update(names)


def _snapshot(row: Row) -> Snapshot:
    id, name, parent_id, parent = row[:4]
    kind, labels, created, updated, size, inodes, registry, repository, digest = row[4:]
    _need(isinstance(name, str) and name and isinstance(id, int), f"a snapshot is named {name!r}")
    shown = f"snapshot {name!r:.200}"
    _need(parent_id is None or isinstance(parent, str), f"{shown}: its parent is not there")
    _need(kind in list(Kind), f"{shown}: no kind {kind!r:.50}")
    _need(_are_counts(created, updated), f"{shown}: its times are no numbers")
    counted = size is not None
    _need(not counted or _are_counts(size, inodes), f"{shown}: its size is no number")
    return Snapshot(
        id=id,
        name=name,
        parent=parent or "",
        kind=Kind(kind),
        labels=_labels(labels, shown),
        created=created,
        updated=updated,
        usage=Usage(size, inodes) if counted else None,
        model=None if digest is None else _model(registry, repository, digest, shown),
    )


def _labels(raw: Any, shown: str) -> dict[str, str]:
    try:
        labels = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        labels = None
    _need(isinstance(labels, dict), f"{shown}: its labels cannot be read")
    texts = all(isinstance(value, str) for value in labels.values())
    _need(texts, f"{shown}: its labels are no texts")
    return dict(labels)


def _model(registry: Any, repository: Any, digest: Any, shown: str) -> ModelRef:
    named = all(isinstance(text, str) for text in (registry, repository, digest))
    try:
        _need(named and is_place(registry, repository), f"{shown}: it stands for no model")
        return ModelRef(registry, repository, parse_digest(digest))
    except ArtifactError as error:
        raise BadRow(f"{shown}: {error}") from None


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _need(holds: object, otherwise: str) -> None:
    if not holds:
        raise BadRow(otherwise)


def encode_row(snapshot: Snapshot) -> Sequence[object]:
    """The columns in the order of the table, the parent by its name."""
    usage, model = snapshot.usage, snapshot.model
    return (
        snapshot.id,
        snapshot.name,
        snapshot.parent,
        snapshot.kind,
        json.dumps(snapshot.labels),
        snapshot.created,
        snapshot.updated,
        usage and usage.size,
        usage and usage.inodes,
        model and model.registry,
        model and model.repository,
        model and model.digest,
    )
