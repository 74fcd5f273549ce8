"""What is known of each snapshot, durably: one SQLite file, one process, one writer.

Answers and refuses as containerd's own metastore does (``core/snapshots/storage``).
Knows nothing of directories and mounts. containerd believes that what was answered is
there after a power cut, hence ``synchronous=FULL``: a millisecond, once a request.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.marker import ModelRef
from snapshotter.snapshots.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    SnapshotError,
)
from snapshotter.snapshots.snapshot import Kind, Snapshot, Usage

_FORMAT = 1
_SCHEMA = f"""
CREATE TABLE snapshots (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never given twice: its directory may outlive it
    name TEXT NOT NULL UNIQUE,
    parent INTEGER REFERENCES snapshots (id),
    kind INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    size INTEGER,
    inodes INTEGER,
    registry TEXT,
    repository TEXT,
    digest TEXT
);
CREATE INDEX snapshots_by_parent ON snapshots (parent);
CREATE INDEX snapshots_by_digest ON snapshots (digest);
PRAGMA user_version = {_FORMAT};
"""
_SELECT = """
SELECT s.id, s.name, p.name, s.kind, s.labels, s.created, s.updated, s.size, s.inodes,
       s.registry, s.repository, s.digest
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
"""
_ANCESTORS = f"""
WITH RECURSIVE chain (id, depth) AS (
    SELECT parent, 1 FROM snapshots WHERE id = ?
    UNION ALL SELECT s.parent, depth + 1 FROM snapshots s JOIN chain c ON s.id = c.id
)
{_SELECT} JOIN chain c ON c.id = s.id ORDER BY c.depth
"""


class Metadata:
    """The snapshots of one root. Thread-safe; writes go through :meth:`transaction`."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`SnapshotError`, among others when another process has it open."""
        self._path = path
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise SnapshotError(f"cannot open {path}: {error}") from None
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        try:
            # Taken at the first access and kept: a second daemon on this root ends here.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA busy_timeout = 500")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise SnapshotError(
                    f"{self._path} is in use by another modelpack-snapshotter; "
                    "stop it or give this one a root of its own"
                ) from None
            raise SnapshotError(f"cannot read snapshot metadata {self._path}: {error}") from None
        if found > _FORMAT:
            raise SnapshotError(
                f"snapshot metadata {self._path} has format {found}, expected {_FORMAT}: "
                "a later modelpack-snapshotter wrote it; upgrade this one"
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def get(self, name: str) -> Snapshot:
        rows = self._run(f"{_SELECT} WHERE s.name = ?", name)
        if not rows:
            raise NotFound(f"snapshot {name} does not exist")
        return _snapshot(rows[0])

    def exists(self, name: str) -> bool:
        return bool(self._run("SELECT 1 FROM snapshots WHERE name = ?", name))

    def all(self) -> list[Snapshot]:
        return [_snapshot(row) for row in self._run(f"{_SELECT} ORDER BY s.id")]

    def ids(self) -> set[int]:
        return {id for (id,) in self._run("SELECT id FROM snapshots")}

    def ancestors(self, snapshot: Snapshot) -> list[Snapshot]:
        """The nearest first; they stay as long as the snapshot does."""
        found = [_snapshot(row) for row in self._run(_ANCESTORS, snapshot.id)]
        if snapshot.parent and not found:
            raise NotFound(f"snapshot {snapshot.name} was removed meanwhile")
        return found

    def stands_for(self, digest: Digest) -> bool:
        """Whether some snapshot stands for a model of this digest."""
        return bool(self._run("SELECT 1 FROM snapshots WHERE digest = ? LIMIT 1", digest))

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing, one at a time. Reads inside it see its writes."""
        with self._lock, ExitStack() as undo:
            self._run("BEGIN IMMEDIATE")
            undo.callback(self._rollback)
            yield Transaction(self, self._run, undo)
            self._run("COMMIT")
            undo.pop_all()

    def _rollback(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _run(self, statement: str, *values: object) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise SnapshotError(f"snapshot metadata {self._path}: {error}") from None


class Transaction:
    """The writes. Made by :meth:`Metadata.transaction`, void after it."""

    def __init__(self, metadata: Metadata, run: Callable[..., list[Any]], undo: ExitStack) -> None:
        self._metadata = metadata
        self._run = run
        self._undo = undo

    def undo(self, step: Callable[[int], None], id: int) -> None:
        """Call ``step(id)`` should the transaction fail, before anybody else may write."""
        self._undo.callback(step, id)

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
        parent_id = None
        if parent:
            above = self._metadata.get(parent)
            if above.kind is not Kind.COMMITTED:
                raise InvalidArgument(
                    f"snapshot {key}: parent {parent} is {above.kind.name.lower()}, "
                    "expected a committed snapshot"
                )
            parent_id = above.id
        if self._metadata.exists(key):
            raise AlreadyExists(f"snapshot {key} already exists")
        now = time.time_ns()
        self._run(
            "INSERT INTO snapshots (name, parent, kind, labels, created, updated,"
            " registry, repository, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            key,
            parent_id,
            kind,
            _labels(labels),
            now,
            now,
            *_columns(model),
        )
        return self._metadata.get(key)

    def commit(self, key: str, name: str, labels: Mapping[str, str], parent: str = "") -> Snapshot:
        """The active snapshot ``key`` becomes the committed one ``name``; labels are not kept.

        One without a parent may be given a committed ``parent`` (containerd 2.2).
        """
        active = self._metadata.get(key)
        if not name:
            raise InvalidArgument(f"snapshot {key}: expected a name to commit it to, got none")
        if self._metadata.exists(name):
            raise AlreadyExists(f"committed snapshot {name} already exists")
        if active.kind is not Kind.ACTIVE:
            raise FailedPrecondition(f"snapshot {key} is {active.kind.name.lower()}, not active")
        if active.model is not None:
            raise FailedPrecondition(f"snapshot {key} shows a model, which nobody can change")
        if active.parent and parent not in ("", active.parent):
            raise InvalidArgument(
                f"snapshot {key}: commit cannot change the parent {active.parent} to {parent}"
            )
        if parent and self._metadata.get(parent).kind is not Kind.COMMITTED:
            raise FailedPrecondition(f"snapshot {key}: parent {parent} is not committed")
        now = time.time_ns()
        self._run(
            "UPDATE snapshots SET name = ?, kind = ?, labels = ?, created = ?, updated = ?,"
            " parent = coalesce(parent, (SELECT id FROM snapshots WHERE name = ?)) WHERE id = ?",
            name,
            Kind.COMMITTED,
            _labels(labels),
            now,
            now,
            parent,
            active.id,
        )
        return self._metadata.get(name)

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        """Replace labels: those at ``labels.<label>`` paths, or all. An empty value removes."""
        found = self._metadata.get(name)
        new = dict(labels) if not paths else dict(found.labels)
        for path in paths:
            head, _, label = path.partition(".")
            if path == "labels":
                new = dict(labels)
            elif head == "labels":
                new[label] = labels.get(label, "")
            else:
                raise InvalidArgument(f"snapshot {name}: {path} cannot be updated, only labels")
        self._run(
            "UPDATE snapshots SET labels = ?, updated = ? WHERE id = ?",
            _labels(new),
            time.time_ns(),
            found.id,
        )
        return self._metadata.get(name)

    def stand_for(self, snapshot: Snapshot, model: ModelRef) -> None:
        """From now on the model takes the place of the snapshot's files."""
        self._run(
            "UPDATE snapshots SET registry = ?, repository = ?, digest = ? WHERE id = ?",
            *_columns(model),
            snapshot.id,
        )

    def keep_usage(self, snapshot: Snapshot, usage: Usage) -> None:
        """Committed files do not change: count them once."""
        self._run(
            "UPDATE snapshots SET size = ?, inodes = ? WHERE id = ?",
            usage.size,
            usage.inodes,
            snapshot.id,
        )

    def remove(self, name: str) -> Snapshot:
        found = self._metadata.get(name)
        if self._run("SELECT 1 FROM snapshots WHERE parent = ? LIMIT 1", found.id):
            raise FailedPrecondition(f"cannot remove snapshot {name}: others are based on it")
        self._run("DELETE FROM snapshots WHERE id = ?", found.id)
        return found


def _snapshot(row: Any) -> Snapshot:
    id, name, parent, kind, labels, created, updated, size, inodes, registry, repo, digest = row
    return Snapshot(
        id=id,
        name=name,
        parent=parent or "",
        kind=Kind(kind),
        labels=json.loads(labels),
        created=created,
        updated=updated,
        usage=None if size is None else Usage(size, inodes),
        model=None if digest is None else ModelRef(registry, repo, Digest(digest)),
    )


def _labels(labels: Mapping[str, str]) -> str:
    return json.dumps({key: value for key, value in labels.items() if value})


def _columns(model: ModelRef | None) -> tuple[str | None, str | None, str | None]:
    return (None, None, None) if model is None else (model.registry, model.repository, model.digest)
