"""A damaged database of snapshots: it is refused with one line, or what it says is sound."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fuzzing import DAMAGES, Damage, examples, is_for_people
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.marker import ModelRef
from snapshotter.snapshots.errors import SnapshotError
from snapshotter.snapshots.metadata import Metadata
from snapshotter.snapshots.snapshot import Kind, Snapshot
from snapshotter.snapshots.table import Transaction

MODEL = ModelRef("r.example:5000", "team/m", Digest("sha256:" + "a" * 64))


def make() -> bytes:
    """A database with layers, a model and a container's root, in one file."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "snapshots.db"
        metadata = Metadata(path)
        for number in range(20):
            key, parent = f"active-{number}", f"layer-{number - 1}" if number else ""
            labels = {"containerd.io/gc.root": "x" * number, "a": "\u00fc"}
            model = MODEL if number == 19 else None
            metadata.write(partial(create, key=key, parent=parent, labels=labels, model=model))
            if number < 19:
                metadata.write(partial(commit, key=key, name=f"layer-{number}"))
        metadata.close()  # writes the log back into the file
        return path.read_bytes()


def create(transaction: Transaction, **fields: Any) -> Snapshot:
    return transaction.create(Kind.ACTIVE, **fields)


def commit(transaction: Transaction, key: str, name: str) -> Snapshot:
    return transaction.commit(key, name, {})


SOUND = make()


def opened(directory: Path, raw: bytes) -> list[Snapshot]:
    """What is read of such a file, and can be added to."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    (directory / "snapshots.db").write_bytes(raw)
    metadata = Metadata(directory / "snapshots.db")
    try:
        found = metadata.all()
        for snapshot in found:
            assert isinstance(snapshot.kind, Kind)
            assert all(isinstance(value, str) for pair in snapshot.labels.items() for value in pair)
            metadata.ancestors(snapshot)
        metadata.write(lambda t: t.create(Kind.ACTIVE, "another", "", {}))
        return found
    finally:
        metadata.close()


def refused_or_sound(directory: Path, raw: bytes) -> None:
    try:
        opened(directory, raw)
    except SnapshotError as error:
        is_for_people(error)


def test_the_sample_is_sound(tmp_path: Path) -> None:
    assert len(opened(tmp_path / "db", SOUND)) == 20


@examples(200)
@given(DAMAGES)
def test_any_damage_is_refused_or_harmless(tmp_path: Path, damage: Damage) -> None:
    refused_or_sound(tmp_path / "db", damage.to(SOUND))


COLUMNS = ["id", "name", "parent", "kind", "labels", "created", "updated", "size", "inodes",
           "registry", "repository", "digest"]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.integers(-(1 << 63), (1 << 63) - 1), st.floats(allow_nan=False),
    st.text(max_size=20).filter(lambda text: text.isascii()), st.binary(max_size=20),
    st.sampled_from(["{}", "[]", '{"a": 1}', "[" * 100_000, "layer-3", '"x"', "sha256:zz"]),
)  # fmt: skip


@examples(200)
@given(st.sampled_from(COLUMNS), st.integers(1, 20), VALUES)
def test_any_value_in_any_column_is_refused_or_harmless(
    tmp_path: Path, column: str, row: int, value: object
) -> None:
    changed = with_value(tmp_path / "changed.db", column, row, value)
    if changed is not None:
        refused_or_sound(tmp_path / "db", changed)


def with_value(path: Path, column: str, row: int, value: object) -> bytes | None:
    """The sample with another value in one place; None where SQLite itself refuses it."""
    path.write_bytes(SOUND)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        try:
            db.execute(f"UPDATE snapshots SET {column} = ? WHERE id = ?", (value, row))
        except sqlite3.IntegrityError:
            return None
    return path.read_bytes()


@pytest.mark.parametrize(
    ("column", "row", "value", "why"),
    [
        ("parent", 3, 3, "is based on itself"),
        ("parent", 1, 9, "is based on itself"),
        ("parent", 3, 99, "its parent is not there"),
        ("parent", 3, 20, "has children and is not committed"),
        ("kind", 3, 7, "there is no kind 7"),
        ("labels", 3, "[1]", "its labels cannot be read"),
        ("labels", 3, '{"a": 1}', "its labels cannot be read"),
        ("labels", 3, 7, "its labels cannot be read"),
        ("created", 3, "now", "its times are no numbers"),
        ("size", 3, -1, "its size is no number"),
        ("digest", 20, "sha256:zz", "sha256:zz"),
        ("registry", 20, "../..", "it stands for no model"),
    ],
)
def test_what_makes_no_sense_is_told_with_what_to_do(
    tmp_path: Path, column: str, row: int, value: object, why: str
) -> None:
    changed = with_value(tmp_path / "changed.db", column, row, value)
    assert changed is not None
    with pytest.raises(SnapshotError, match=rf"cannot read .*{re.escape(why)}.*have images pulled"):
        opened(tmp_path / "db", changed)


def test_damage_of_which_sqlite_cannot_even_tell_is_told(tmp_path: Path) -> None:
    damage = Damage((("drop", 4044, 512, b"\0"), ("set", 83410, 1, b"\xff")))
    with pytest.raises(SnapshotError, match="cannot read snapshot metadata"):
        opened(tmp_path / "db", damage.to(SOUND))
