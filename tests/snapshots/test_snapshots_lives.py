"""Starting, stopping, starting again: what stays, what goes, who is in the way."""

from __future__ import annotations

import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
from grpc import StatusCode
from snapshots_harness import MODEL, Client, Place, mounted, refused

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.marker import MARKER_NAME, ModelRef, encode_marker
from snapshotter.artifact.selection import Selection
from snapshotter.errors import ModelpackError
from snapshotter.snapshots.errors import NotFound, SnapshotError
from snapshotter.snapshots.layers import Layers
from snapshotter.snapshots.metadata import Metadata
from snapshotter.snapshots.snapshot import Kind, Snapshot
from snapshotter.snapshots.snapshotter import Snapshotter
from snapshotter.snapshots.table import Transaction


def test_everything_is_there_after_a_restart(place: Place) -> None:
    with place.start() as client:
        with mounted(client.prepare("a", labels={"l": "1"}), place.work / "a") as directory:
            (directory / "file").write_text("x")
        client.commit("c", "a", {"l": "2"})
        client.prepare("b", "c", {"l": "3"})
        client.view("v", "c")
        usage = client.usage("c")
        before = {name: client.stat(name) for name in client.walk()}
    with place.start() as client:
        assert {name: client.stat(name) for name in client.walk()} == before
        assert client.usage("c") == usage
        for key in ("b", "v"):
            with mounted(client.mounts(key), place.work / key) as directory:
                assert (directory / "file").read_text() == "x"


def test_a_model_is_mounted_again_after_a_restart(place: Place) -> None:
    with place.start() as client:
        with mounted(client.prepare("a"), place.work / "a") as directory:
            (directory / MARKER_NAME).write_bytes(encode_marker(MODEL))
        client.commit("c", "a")
        place.models.known["volume"] = MODEL
        client.view("v", "c")
        client.view("volume")
    place.models.mounted.clear()
    with place.start() as client:
        assert place.models.mounted == []
        for key in ("v", "volume"):
            with mounted(client.mounts(key), place.work / key) as directory:
                assert (directory / "config.json").exists()
        assert place.models.mounted == [MODEL, MODEL]


def test_identifiers_are_not_given_twice(place: Place) -> None:
    with place.start() as client:
        client.prepare("a")
        client.remove("a")
    with place.start() as client:
        (mount,) = client.prepare("a")
    assert Path(mount.source).parent.name == "2"


def test_what_an_earlier_life_left_half_done_is_put_in_order(place: Place) -> None:
    with place.start() as client:
        client.prepare("a")
        client.prepare("b")
    layers = place.root / "snapshots"
    (layers / "new-abc" / "fs").mkdir(parents=True)
    (layers / "removing-77" / "fs").mkdir(parents=True)
    (layers / "3" / "fs").mkdir(parents=True)
    with place.start() as client:
        (mount,) = client.prepare("c")
        assert Path(mount.source).parent.name == "3"
        client.cleanup()
        assert place.layers() == ["1", "2", "3"]
        assert all((layers / id / "fs").is_dir() for id in place.layers())


def test_cleanup_removes_what_belongs_to_no_snapshot(client: Client, place: Place) -> None:
    client.prepare("a")
    (place.root / "snapshots" / "stray" / "fs").mkdir(parents=True)
    client.cleanup()
    assert place.layers() == ["1"]


def test_a_layer_that_somebody_deleted_does_not_hinder_its_removal(
    client: Client, place: Place
) -> None:
    client.prepare("a")
    shutil.rmtree(place.root / "snapshots" / "1")
    client.remove("a")
    assert client.walk() == []


def test_the_socket_is_for_its_owner_alone(client: Client, place: Place) -> None:
    assert stat.S_IMODE(place.address.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.address.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((place.root / "snapshots").stat().st_mode) == 0o700


def test_the_socket_of_a_dead_predecessor_is_replaced(place: Place) -> None:
    place.address.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place.address))
    with place.start() as client:
        assert client.walk() == []
    assert not place.address.exists()


def test_the_socket_of_a_living_one_is_left_alone(client: Client, place: Place) -> None:
    with pytest.raises(ModelpackError, match="in use"), place.start():
        pass
    assert client.walk() == []


def test_a_root_in_use_is_left_alone(client: Client, place: Place, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from snapshotter.errors import ModelpackError\n"
        "from snapshotter.snapshots.metadata import Metadata\n"
        "try: Metadata(Path(sys.argv[1]))\n"
        "except ModelpackError as error: print(error)"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program, str(place.root / "snapshots.db")],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "in use by another modelpack-snapshotter" in asked.stdout
    with pytest.raises(SnapshotError, match="in use by another"):
        Snapshotter(place.root, place.models)
    client.prepare("a")


def test_a_metadata_file_that_is_none_is_said_to_be(place: Place) -> None:
    place.root.mkdir()
    (place.root / "snapshots.db").write_text("precious" * 1000)
    with (
        pytest.raises(SnapshotError, match=r"snapshots\.db: file is not a database"),
        place.start(),
    ):
        pass
    assert not place.address.exists()


def test_a_metadata_file_of_the_future_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.db"
    with sqlite3.connect(path) as future:
        future.execute("PRAGMA user_version = 99")
    future.close()
    with pytest.raises(SnapshotError, match="has format 99, expected 2"):
        Metadata(path)


def test_which_files_of_a_model_were_asked_for_is_known_after_a_restart(place: Place) -> None:
    chosen = replace(MODEL, selection=Selection(exclude=("*.bin",)))
    with place.start() as client:
        with mounted(client.prepare("a"), place.work / "a") as directory:
            (directory / MARKER_NAME).write_bytes(encode_marker(chosen))
        client.commit("model", "a")
    with place.start() as client:
        client.view("v", "model")
    assert place.models.mounted == [chosen]


def test_a_metadata_file_of_the_first_format_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "snapshots.db"
    with sqlite3.connect(path) as first:
        first.executescript(
            """CREATE TABLE snapshots (
                id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
                parent INTEGER REFERENCES snapshots (id), kind INTEGER NOT NULL,
                labels TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL,
                size INTEGER, inodes INTEGER, registry TEXT, repository TEXT, digest TEXT);
            PRAGMA user_version = 1;"""
        )
        digest = "sha256:" + "a" * 64
        row = (7, "model", None, 3, "{}", 1, 1, None, None, "registry.test", "m", digest)
        first.execute("INSERT INTO snapshots VALUES (?,?,?,?,?,?,?,?,?,?,?,?)", row)
    first.close()
    for _ in range(2):
        metadata = Metadata(path)
        assert metadata.get("model").model == ModelRef("registry.test", "m", Digest(digest))
        metadata.close()


def test_a_root_that_cannot_be_made_is_said_to_be(place: Place) -> None:
    place.root.mkdir()
    (place.root / "file").write_text("")
    place.root = place.root / "file" / "root"
    with pytest.raises(SnapshotError, match="cannot make root"), place.start():
        pass


def test_an_address_that_cannot_be_bound_is_said_to_be(place: Place) -> None:
    place.address = Path("/proc/modelpack.sock")
    with pytest.raises(ModelpackError, match=r"/proc/modelpack\.sock"), place.start():
        pass


def test_a_transaction_that_fails_is_undone_with_its_directories(tmp_path: Path) -> None:
    metadata, layers = Metadata(tmp_path / "db"), Layers(tmp_path / "layers")

    def fail(transaction: Transaction) -> None:
        created = transaction.create(Kind.ACTIVE, "a", "", {})
        transaction.undo(layers.discard, created.id)
        layers.create(created.id, None)
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        metadata.write(fail)
    assert metadata.all() == []
    assert list((tmp_path / "layers").iterdir()) == []
    layers.close()
    metadata.close()


def test_a_snapshot_removed_under_ones_hands_has_no_mounts(tmp_path: Path) -> None:
    metadata = Metadata(tmp_path / "db")

    def view_of_nothing(transaction: Transaction) -> Snapshot:
        transaction.create(Kind.ACTIVE, "a", "", {})
        transaction.commit("a", "c", {})
        view = transaction.create(Kind.VIEW, "v", "c", {})
        for name in ("v", "c"):
            transaction.remove(name)
        return view

    view = metadata.write(view_of_nothing)
    with pytest.raises(NotFound, match="meanwhile"):
        metadata.ancestors(view)
    metadata.close()


def test_a_full_disk_refuses_the_call_and_loses_nothing(tmp_path: Path) -> None:
    image, root = tmp_path / "image", tmp_path / "disk"
    root.mkdir()
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-N", "64", str(image)], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop", str(image), str(root)], check=True, timeout=60)
    try:
        place = Place(root)
        with place.start() as client:
            made: list[str] = []
            with refused(StatusCode.RESOURCE_EXHAUSTED) as message:
                for number in range(64):
                    client.prepare(f"k{number}")
                    made.append(f"k{number}")
            assert "No space left" in message[0]
            assert client.walk() == sorted(made)
            assert len(place.layers()) == len(made)
            client.remove(made[0])
            client.cleanup()
            client.prepare("again")
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True, timeout=60)


def test_what_is_asked_for_while_the_disk_is_written_to_shares_the_next_flush(
    tmp_path: Path,
) -> None:
    """And is made where the metadata were told to work, one flush after the other."""
    metadata = Metadata(tmp_path / "db")
    todo: SimpleQueue[Callable[[], None]] = SimpleQueue()
    metadata.work_in(todo.put)
    threads: set[int] = set()
    told: list[str] = []

    def ask(key: str) -> None:
        def work(transaction: Transaction) -> None:
            threads.add(threading.get_ident())
            transaction.create(Kind.ACTIVE, key, "", {})

        metadata.write_soon(work, lambda write: told.append(f"{key} {write.error}"))

    ask("a")
    todo.get(timeout=30)()  # made, and on its way to the disk
    for key in ("b", "c", "b"):
        ask(key)
    assert not metadata.exists("a")
    todo.get(timeout=30)()  # the disk has it: the next are made
    assert told == ["a None"]
    assert metadata.exists("a")
    assert not metadata.exists("b")
    todo.get(timeout=30)()
    assert told[1:] == ["b None", "c None", "b snapshot b already exists"]
    assert threads == {threading.get_ident()}
    metadata.close()
    again = Metadata(tmp_path / "db")
    assert [found.name for found in again.all()] == ["a", "b", "c"]
    again.close()
