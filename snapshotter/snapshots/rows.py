"""Snapshots as rows of the database, and what makes no sense in them. Pure.

Disks rot, and SQLite keeps no checksums: what was read is believed only where it fits together.
A wrong parent would give a container files of another image, and a circle of them no end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from snapshotter.artifact.choice import decode_choice, encode_choice
from snapshotter.artifact.digest import parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.places import is_place
from snapshotter.snapshots.snapshot import Kind, Snapshot, Usage

Row = tuple[Any, ...]
_KINDS = frozenset(int(kind) for kind in Kind)


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
    id, name, _, parent = row[:4]
    kind, labels, created, updated, size, inodes, registry, repository, digest, choice = row[4:]
    if (fault := _fault(row)) is not None:
        raise BadRow(f"snapshot {name!r:.200}: {fault}")
    try:
        return Snapshot(
            id=id,
            name=name,
            parent=parent or "",
            kind=Kind(kind),
            labels=msgspec.json.decode(labels, type=dict[str, str]),
            created=created,
            updated=updated,
            usage=None if size is None else Usage(size, inodes),
            model=None
            if digest is None
            else ModelRef(registry, repository, parse_digest(digest), decode_choice(choice or "")),
        )
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise BadRow(f"snapshot {name!r:.200}: its labels cannot be read") from None
    except ArtifactError as error:
        raise BadRow(f"snapshot {name!r:.200}: {error}") from None


def _fault(row: Row) -> str | None:
    """What is wrong with a row by itself."""
    id, name, parent_id, parent, kind, labels, created, updated, size, inodes, *model = row
    if not (type(id) is int and isinstance(name, str) and name):
        return "it has no name"
    if parent_id is not None and not isinstance(parent, str):
        return "its parent is not there"
    if type(kind) is not int or kind not in _KINDS:
        return f"there is no kind {kind!r:.50}"
    if not isinstance(labels, str):
        return "its labels cannot be read"
    if not (_is_count(created) and _is_count(updated)):
        return "its times are no numbers"
    if size is not None and not (_is_count(size) and _is_count(inodes)):
        return "its size is no number"
    *place, digest, choice = model
    if digest is not None and not (
        all(isinstance(text, str) for text in (*place, digest, choice or "")) and is_place(*place)
    ):
        return "it stands for no model"
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def encode_row(snapshot: Snapshot) -> Sequence[object]:
    """The columns in the order of the table, the parent by its name."""
    usage, model = snapshot.usage, snapshot.model
    return (
        snapshot.id,
        snapshot.name,
        snapshot.parent,
        snapshot.kind,
        msgspec.json.encode(snapshot.labels).decode(),
        snapshot.created,
        snapshot.updated,
        usage and usage.size,
        usage and usage.inodes,
        model and model.registry,
        model and model.repository,
        model and model.digest,
        model and (encode_choice(model.selection) or None),
    )
