"""What is known of each snapshot, durably: one SQLite file, one process, one writer.

Everything is in memory as well, where reading takes no lock and no file. What is
written counts once the disk has it: containerd believes that what was answered is there
after a power cut, hence ``synchronous=FULL``. One flush at a time; what comes meanwhile
waits and then shares the next. Nobody reads what is not on the disk yet.

A thread of its own waits for the disk and does nothing else. All other work is done where
:meth:`Metadata.work_in` says, so that a daemon can have all of it in the one thread that serves:
two that compute take the interpreter's lock from each other at every call of the system, and
take more than twice as long as one.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

import structlog

from snapshotter.artifact.marker import ModelRef
from snapshotter.priority import PROMPT, be_nice
from snapshotter.snapshots.errors import NotFound, SnapshotError
from snapshotter.snapshots.rows import BadRow, decode_rows, encode_row
from snapshotter.snapshots.snapshot import Snapshot
from snapshotter.snapshots.table import Change, Table, Transaction

log = structlog.get_logger(__name__)

_T = TypeVar("_T")

_FORMAT = 2
"""1 had no ``choice``."""
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
    digest TEXT,
    choice TEXT  -- of the model's files, artifact/choice.py; NULL for all of them
);
PRAGMA user_version = {_FORMAT};
"""
_FROM_1 = "ALTER TABLE snapshots ADD COLUMN choice TEXT; PRAGMA user_version = 2;"
_SELECT = """
SELECT s.id, s.name, s.parent, p.name, s.kind, s.labels, s.created, s.updated, s.size, s.inodes,
       s.registry, s.repository, s.digest, s.choice
FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent
"""
_UPSERT = """
INSERT INTO snapshots VALUES (
    ?, ?, (SELECT id FROM snapshots WHERE name = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?
) ON CONFLICT (id) DO UPDATE SET
    name = excluded.name, parent = excluded.parent, kind = excluded.kind,
    labels = excluded.labels, created = excluded.created, updated = excluded.updated,
    size = excluded.size, inodes = excluded.inodes, registry = excluded.registry,
    repository = excluded.repository, digest = excluded.digest, choice = excluded.choice
"""
_CHECKPOINT = 2000
"""Pages of the log that are copied into the file even while somebody waits for it."""
_IDLE = 1.0
"""Seconds without a write after which they are copied anyway: then nobody waits."""


class Write(Generic[_T]):
    """Somebody's changes: asked for, then made or refused."""

    def __init__(self, work: Callable[[Transaction], _T], then: Then[_T]) -> None:
        self.work = work
        self.then = then
        self.answer: _T
        self.error: BaseException | None = None

    def result(self) -> _T:
        """What the work returned, once the disk has its changes; raises why it has not."""
        if self.error is not None:
            raise self.error
        return self.answer


Then: TypeAlias = Callable[[Write[_T]], None]
"""Told what became of a write, while others wait: it must not wait itself."""

Soon: TypeAlias = Callable[[Callable[[], None]], None]
"""Does what it is given soon, or at once; from any thread."""


def _at_once(work: Callable[[], None]) -> None:
    work()


def waited(start: Callable[[Then[_T]], None]) -> _T:
    """What becomes of the write that ``start`` starts."""
    done: SimpleQueue[Write[_T]] = SimpleQueue()
    start(done.put)
    return done.get().result()


class _Flush:
    """Writes that go to the disk together."""

    def __init__(self, writes: Sequence[Write[Any]]) -> None:
        self.writes = writes
        self.made: list[tuple[Write[Any], Transaction]] = []
        """Those that were not refused."""
        self.error: BaseException | None = None

    @property
    def changes(self) -> list[Change]:
        return [change for _, transaction in self.made for change in transaction.changes]


class Metadata:
    """The snapshots of one root. Thread-safe; reads never wait, writes are :meth:`write`."""

    def __init__(self, path: Path) -> None:
        """Raises :class:`SnapshotError`, among others when another process has it open."""
        self._path = path
        self._soon: Soon = _at_once
        self._lock = threading.Lock()
        """Of what is below, and of ``_durable`` while it changes."""
        self._queue: list[Write[Any]] = []
        self._busy = False
        """With a flush: its thread alone uses ``_db`` and ``_newest``."""
        self._rests = threading.Condition(self._lock)
        """Nothing is in the queue, and no flush under way."""
        self._ending = False
        self._commits: SimpleQueue[_Flush | None] = SimpleQueue()
        try:
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise SnapshotError(f"cannot open {path}: {error}") from None
        try:
            snapshots, last = self._open()
        except BaseException:
            self._db.close()
            raise
        self._ids = count(last + 1)
        self._durable = Table(snapshots)
        self._newest = Table(snapshots)
        """With what is being written."""
        self._thread = threading.Thread(
            target=self._commit_all, name="modelpack-metadata", daemon=True
        )
        self._thread.start()

    def _open(self) -> tuple[list[Snapshot], int]:
        """All snapshots, and the last identifier that was ever given."""
        try:
            # Taken at the first access and kept: a second daemon on this root ends here.
            self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._db.execute("PRAGMA busy_timeout = 500")
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            # Off, as it is by default: Table sees to it, and a deletion would search the file.
            self._db.execute("PRAGMA foreign_keys = OFF")
            self._db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            (found,) = self._db.execute("PRAGMA user_version").fetchone()
            if found > _FORMAT:
                raise SnapshotError(
                    f"snapshot metadata {self._path} has format {found}, expected {_FORMAT}: "
                    "a later modelpack-snapshotter wrote it; upgrade this one"
                )
            if found == 0:
                self._db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            if found == 1:
                self._db.executescript(f"BEGIN IMMEDIATE; {_FROM_1} COMMIT;")
            for column in ("parent", "digest"):  # of earlier releases, which searched the file
                self._db.execute(f"DROP INDEX IF EXISTS snapshots_by_{column}")
            snapshots = decode_rows(self._db.execute(_SELECT))
            last = self._db.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0] or 0
            used = [snapshot.id for snapshot in snapshots]
            if type(last) is not int or last < max(used, default=0):
                raise BadRow("the last number given to a snapshot is lost")
        except (sqlite3.Error, ValueError) as error:  # also a message of SQLite that is no text
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                raise SnapshotError(
                    f"{self._path} is in use by another modelpack-snapshotter; "
                    "stop it or give this one a root of its own"
                ) from None
            why = " ".join(str(error).split())  # SQLite quotes parts of a schema
            raise SnapshotError(
                f"cannot read snapshot metadata {self._path}: {why}; put back a copy of it, or "
                f"remove all of {self._path.parent} and have images pulled again"
            ) from None
        return snapshots, last

    def work_in(self, soon: Soon) -> None:
        """Have writes made by ``soon`` from now on, not by whoever asks for them."""
        self._soon = soon

    def close(self) -> None:
        """What was asked for is written first."""
        with self._rests:
            self._ending = True
            self._rests.wait_for(lambda: not self._queue and not self._busy)
        self._commits.put(None)
        self._thread.join()
        self._db.close()

    def get(self, name: str) -> Snapshot:
        return self._durable.get(name)

    def exists(self, name: str) -> bool:
        return name in self._durable

    def all(self) -> list[Snapshot]:
        """The oldest first."""
        with self._lock:
            return self._durable.all()

    def ancestors(self, snapshot: Snapshot) -> list[Snapshot]:
        """The nearest first; they stay as long as the snapshot does."""
        found = []
        parent = snapshot.parent
        while parent:
            try:
                above = self._durable.get(parent)
            except NotFound:
                raise NotFound(f"snapshot {snapshot.name} was removed meanwhile") from None
            found.append(above)
            parent = above.parent
        return found

    def stands_for(self, model: ModelRef) -> bool:
        """Whether some snapshot stands for a model of this digest and this choice of files."""
        return self._durable.stands_for(model)

    def write(self, work: Callable[[Transaction], _T]) -> _T:
        """All that ``work`` changes, durably, or nothing; one at a time.

        ``work`` runs while others wait, and must not wait itself for anything but the disk.
        Raises what it raises, and :class:`SnapshotError` or OSError when the disk
        refuses.
        """

        def start(then: Then[_T]) -> None:
            self.write_soon(work, then)

        return waited(start)

    def write_soon(self, work: Callable[[Transaction], _T], then: Then[_T]) -> None:
        """As :meth:`write`, without waiting."""
        write = Write(work, then)
        with self._lock:
            refused = self._ending
            if not refused:
                self._queue.append(write)
            first = len(self._queue) == 1 and not self._busy
        if refused:
            write.error = SnapshotError(f"{self._path}: not written, the daemon is stopping")
            then(write)
        elif first:
            self._soon(self._begin)

    def _begin(self) -> None:
        """Make the changes of all that is queued, unless a flush is under way."""
        with self._lock:
            if self._busy or not self._queue:
                return
            self._busy = True
            flush, self._queue = _Flush(self._queue), []
        for write in flush.writes:
            transaction = Transaction(self._newest, self._ids.__next__)
            try:
                write.answer = write.work(transaction)
            except BaseException as error:
                _refuse(write, transaction, error)
            else:
                flush.made.append((write, transaction))
        try:
            if changes := flush.changes:
                self._put(changes)
                self._commits.put(flush)
                return
        except BaseException as error:
            flush.error = error
        self._end(flush)

    def _end(self, flush: _Flush) -> None:
        """Tell what became of a flush, which the disk has now or never."""
        if flush.error is not None:
            for write, transaction in reversed(flush.made):
                _refuse(write, transaction, flush.error)
        with self._lock:
            for before, after in flush.changes:
                self._durable.put(before, after)
            self._busy = False
            if not self._queue:
                self._rests.notify_all()
        self._begin()
        for write in flush.writes:
            try:
                write.then(write)
            except Exception:
                log.exception("what was written could not be answered")

    def _commit_all(self) -> None:
        be_nice(PROMPT)
        copied = True
        while True:
            try:
                flush = self._commits.get(timeout=None if copied else _IDLE)
            except Empty:
                copied = self._copy_log()
                continue
            if flush is None:
                return
            try:
                with self._undone_on_error():
                    self._db.execute("COMMIT")
            except BaseException as error:
                flush.error = error
            copied = False
            self._soon(partial(self._end, flush))

    def _copy_log(self) -> bool:
        """Copy the log into the file, unless there is a flush."""
        with self._lock:
            if self._busy:
                return False
            self._busy = True
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            log.warning("the log of snapshot metadata stays as it is", why=str(error))
        self._soon(partial(self._end, _Flush([])))
        return True

    def _put(self, changes: Sequence[Change]) -> None:
        """All but the COMMIT."""
        with self._undone_on_error():
            self._db.execute("BEGIN IMMEDIATE")
            for before, after in changes:
                if after is not None:
                    self._db.execute(_UPSERT, encode_row(after))
                elif before is not None:
                    self._db.execute("DELETE FROM snapshots WHERE id = ?", (before.id,))

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            try:
                yield
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path) from None
            raise SnapshotError(f"snapshot metadata {self._path}: {error}") from None


def _refuse(write: Write[Any], transaction: Transaction, error: BaseException) -> None:
    write.error = error
    try:
        transaction.roll_back()
    except OSError as failure:
        log.error("a change that failed is not undone on the disk", why=str(failure))
