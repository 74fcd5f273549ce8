"""What may become of which snapshot: the rules of containerd's metastore. Pure.

Answers and refuses as ``core/snapshots/storage`` does. Knows nothing of disks,
directories and mounts; :mod:`~snapshotter.snapshots.metadata` makes it last.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeAlias, TypeVar

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.selection import Selection
from snapshotter.snapshots.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from snapshotter.snapshots.snapshot import Kind, Snapshot, Usage

_Choice: TypeAlias = tuple[Digest, Selection]
"""A model whatever its place: what it is, and which of its files are asked for."""
_Key = TypeVar("_Key", str, _Choice)

Change = tuple[Snapshot | None, Snapshot | None]
"""A snapshot before and after; None before it was and after it is no more."""


class Table:
    """Snapshots by name. Not thread-safe, but for :meth:`get` beside one that changes it."""

    def __init__(self, snapshots: Iterable[Snapshot] = ()) -> None:
        self._by_name: dict[str, Snapshot] = {}
        self._children: Counter[str] = Counter()
        self._models: Counter[_Choice] = Counter()
        for snapshot in snapshots:
            self.put(None, snapshot)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def get(self, name: str) -> Snapshot:
        found = self._by_name.get(name)
        if found is None:
            raise NotFound(f"snapshot {name} does not exist")
        return found

    def all(self) -> list[Snapshot]:
        """The oldest first."""
        return sorted(self._by_name.values(), key=lambda snapshot: snapshot.id)

    def has_children(self, name: str) -> bool:
        return self._children[name] > 0

    def stands_for(self, model: ModelRef) -> bool:
        """Whether some snapshot stands for a model of this digest and this choice of files."""
        return self._models[model.digest, model.selection] > 0

    def put(self, before: Snapshot | None, after: Snapshot | None) -> None:
        """Take ``after`` for ``before``; ``put(after, before)`` undoes it."""
        if after is not None:
            self._by_name[after.name] = after
            self._count(after, 1)
        if before is not None:
            if after is None or after.name != before.name:
                del self._by_name[before.name]
            self._count(before, -1)

    def _count(self, snapshot: Snapshot, by: int) -> None:
        _add(self._children, snapshot.parent, by)
        if snapshot.model is not None:
            _add(self._models, (snapshot.model.digest, snapshot.model.selection), by)


class Transaction:
    """Changes of a table, each seen by the next; and what undoes them."""

    def __init__(self, table: Table, new_id: Callable[[], int]) -> None:
        self._table = table
        self._new_id = new_id
        self._undo = ExitStack()
        self.changes: list[Change] = []

    def undo(self, step: Callable[[int], object], id: int) -> None:
        """Call ``step(id)`` should the transaction fail, before anybody else may write."""
        self._undo.callback(step, id)

    def roll_back(self) -> None:
        """Undo everything, the last first. Raises what a step raised, after the others."""
        self.changes.clear()
        self._undo.close()

    def get(self, name: str) -> Snapshot:
        return self._table.get(name)

    def all(self) -> list[Snapshot]:
        return self._table.all()

    def create(
        self,
        kind: Kind,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        model: ModelRef | None = None,
    ) -> Snapshot:
        """An active snapshot or a view on ``parent``, which must be committed."""
        if not key:
            raise InvalidArgument("a snapshot needs a key, the request has none")
        if key in self._table:
            raise AlreadyExists(f"snapshot {key} already exists")
        if parent:
            above = self._table.get(parent)
            if above.kind is not Kind.COMMITTED:
                raise InvalidArgument(
                    f"snapshot {key}: parent {parent} is {above.kind.name.lower()}, "
                    "expected a committed snapshot"
                )
        now = time.time_ns()
        created = Snapshot(
            self._new_id(), key, parent, kind, _kept(labels), created=now, updated=now, model=model
        )
        self._put(None, created)
        return created

    def commit(self, key: str, name: str, labels: Mapping[str, str], parent: str = "") -> Snapshot:
        """The active snapshot ``key`` becomes the committed one ``name``; labels are not kept.

        One without a parent may be given a committed ``parent`` (containerd 2.2).
        """
        if not name:
            raise InvalidArgument(f"snapshot {key}: expected a name to commit it to, got none")
        if name in self._table:
            raise AlreadyExists(f"committed snapshot {name} already exists")
        active = self._table.get(key)
        if active.kind is not Kind.ACTIVE:
            raise FailedPrecondition(f"snapshot {key} is {active.kind.name.lower()}, not active")
        if active.model is not None:
            raise FailedPrecondition(f"snapshot {key} shows a model, which nobody can change")
        if active.parent and parent not in ("", active.parent):
            raise InvalidArgument(
                f"snapshot {key}: commit cannot change the parent {active.parent} to {parent}"
            )
        if parent and self._table.get(parent).kind is not Kind.COMMITTED:
            raise FailedPrecondition(f"snapshot {key}: parent {parent} is not committed")
        now = time.time_ns()
        committed = replace(
            active,
            name=name,
            kind=Kind.COMMITTED,
            labels=_kept(labels),
            created=now,
            updated=now,
            parent=active.parent or parent,
        )
        self._put(active, committed)
        return committed

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Replace labels: those at ``labels.<label>`` paths, or all. An empty value removes."""
        found = self._table.get(name)
        new = dict(labels) if not paths else dict(found.labels)
        for path in paths:
            head, _, label = path.partition(".")
            if path == "labels":
                new = dict(labels)
            elif head == "labels":
                new[label] = labels.get(label, "")
            else:
                raise InvalidArgument(f"snapshot {name}: {path} cannot be updated, only labels")
        updated = replace(found, labels=_kept(new), updated=time.time_ns())
        self._put(found, updated)
        return updated

    def stand_for(self, snapshot: Snapshot, model: ModelRef) -> None:
        """From now on the model takes the place of the snapshot's files."""
        self._put(snapshot, replace(snapshot, model=model))

    def keep_usage(self, snapshot: Snapshot, usage: Usage) -> None:
        """Committed files do not change: count them once, unless it was removed meanwhile."""
        found = self._table.get(snapshot.name)
        if found.id == snapshot.id:
            self._put(found, replace(found, usage=usage))

    def remove(self, name: str) -> Snapshot:
        found = self._table.get(name)
        if self._table.has_children(name):
            raise FailedPrecondition(f"cannot remove snapshot {name}: others are based on it")
        self._put(found, None)
        return found

    def _put(self, before: Snapshot | None, after: Snapshot | None) -> None:
        self._table.put(before, after)
        self._undo.callback(self._table.put, after, before)
        self.changes.append((before, after))


def _add(counter: Counter[_Key], key: _Key, by: int) -> None:
    counter[key] += by
    if not counter[key]:
        del counter[key]


def _kept(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if value}
