"""containerd's documented contract of a snapshotter, through the socket, mounted for real."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from grpc import StatusCode
from snapshots_harness import Client, Place, mounted, refused

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from snapshotter.snapshots.idmap import GID_LABEL, UID_LABEL

Build = Callable[..., str]


def tree(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text() if path.is_file() else "/"
        for path in directory.rglob("*")
    }


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / name).write_text(text)


def test_a_committed_snapshot_is_what_the_next_one_starts_from(
    client: Client, place: Place
) -> None:
    with mounted(client.prepare("a1"), place.work / "a1") as directory:
        write(directory, foo="foo")
        (directory / "a" / "b").mkdir(parents=True)
    client.commit("c1", "a1")
    with mounted(client.prepare("a2", "c1"), place.work / "a2") as directory:
        assert tree(directory) == {"foo": "foo", "a": "/", "a/b": "/"}
        write(directory, foo="bar", bar="bar")
        (directory / "a" / "b").rmdir()
    client.commit("c2", "a2")
    with mounted(client.view("v", "c2"), place.work / "v") as directory:
        assert tree(directory) == {"foo": "bar", "bar": "bar", "a": "/"}
    with mounted(client.view("v1", "c1"), place.work / "v1") as directory:
        assert tree(directory) == {"foo": "foo", "a": "/", "a/b": "/"}


def test_the_key_of_a_committed_snapshot_is_gone(client: Client, build: Build) -> None:
    build("c")
    with refused(StatusCode.NOT_FOUND):
        client.stat("c-a")
    info = client.stat("c")
    assert (info.name, info.parent, info.kind) == ("c", "", api.COMMITTED)


def test_stat_tells_kind_parent_and_labels(client: Client, build: Build) -> None:
    client.prepare("a", build("c"), {"l": "1"})
    client.view("v", "c", {"l": "2"})
    for key, kind, label in (("a", api.ACTIVE, "1"), ("v", api.VIEW, "2")):
        info = client.stat(key)
        assert (info.name, info.parent, info.kind) == (key, "c", kind)
        assert dict(info.labels) == {"l": label}
        assert info.created_at == info.updated_at


def test_labels_of_the_active_snapshot_end_with_it(client: Client) -> None:
    client.prepare("a", labels={"kept": "no"})
    client.commit("c", "a", {"given": "yes"})
    assert dict(client.stat("c").labels) == {"given": "yes"}


def test_each_snapshot_knows_its_own_parent(client: Client, build: Build) -> None:
    build("c3", build("c2", build("c1")))
    assert [client.stat(name).parent for name in ("c3", "c2", "c1")] == ["c2", "c1", ""]


@pytest.mark.parametrize("first", ["prepare", "view"])
@pytest.mark.parametrize("second", ["prepare", "view"])
def test_a_key_is_given_once(client: Client, build: Build, first: str, second: str) -> None:
    build("c")
    getattr(client, first)("k", "c")
    with refused(StatusCode.ALREADY_EXISTS):
        getattr(client, second)("k", "c")
    with refused(StatusCode.ALREADY_EXISTS):
        getattr(client, second)("k")


def test_a_name_is_given_once(client: Client, build: Build) -> None:
    build("c")
    client.prepare("a")
    with refused(StatusCode.ALREADY_EXISTS):
        client.commit("c", "a")
    assert client.stat("a").kind == api.ACTIVE


def test_a_parent_must_be_there_and_committed(client: Client) -> None:
    client.prepare("a")
    with refused(StatusCode.NOT_FOUND):
        client.prepare("b", "missing")
    with refused(StatusCode.INVALID_ARGUMENT):
        client.prepare("b", "a")
    with refused(StatusCode.INVALID_ARGUMENT):
        client.view("b", "a")


def test_an_empty_key_is_refused(client: Client) -> None:
    with refused(StatusCode.INVALID_ARGUMENT):
        client.prepare("")
    client.prepare("a")
    with refused(StatusCode.INVALID_ARGUMENT):
        client.commit("", "a")


def test_a_view_cannot_be_committed(client: Client, build: Build) -> None:
    client.view("v", build("c"))
    with refused(StatusCode.FAILED_PRECONDITION):
        client.commit("d", "v")
    with refused(StatusCode.FAILED_PRECONDITION):
        client.commit("d", "c")
    with refused(StatusCode.NOT_FOUND):
        client.commit("d", "missing")


def test_commit_may_give_a_parent_to_a_snapshot_that_has_none(
    client: Client, build: Build, place: Place
) -> None:
    build("c1", "", lambda directory: write(directory, one="1"))
    with mounted(client.prepare("a"), place.work / "a") as directory:
        write(directory, two="2")
    client.commit("c2", "a", parent="c1")
    with mounted(client.view("v", "c2"), place.work / "v") as directory:
        assert tree(directory) == {"one": "1", "two": "2"}
    client.prepare("b", "c2")
    with refused(StatusCode.INVALID_ARGUMENT):
        client.commit("c3", "b", parent="c1")
    client.prepare("d")
    with refused(StatusCode.FAILED_PRECONDITION):
        client.commit("c4", "d", parent="v")
    with refused(StatusCode.NOT_FOUND):
        client.commit("c4", "d", parent="missing")


def test_a_snapshot_with_children_is_not_removed(client: Client, build: Build) -> None:
    build("c2", build("c1"))
    client.prepare("a", "c2")
    for name in ("c1", "c2"):
        with refused(StatusCode.FAILED_PRECONDITION) as message:
            client.remove(name)
        assert "remove" in message[0]
    for name in ("a", "c2", "c1"):
        client.remove(name)
    assert client.walk() == []
    with refused(StatusCode.NOT_FOUND):
        client.remove("c1")


def test_a_removed_key_can_be_used_again(client: Client, build: Build) -> None:
    build("c")
    client.prepare("k", "c")
    client.remove("k")
    client.view("k", "c")
    client.remove("k")
    client.prepare("k")
    client.remove("c")
    client.commit("c", "k")


def test_removal_frees_the_disk(client: Client, place: Place, build: Build) -> None:
    build("c", "", lambda directory: write(directory, big="x" * 100_000))
    assert place.layers() == ["1"]
    client.remove("c")
    client.cleanup()
    assert place.layers() == []


def test_a_snapshot_is_removed_while_it_is_mounted(client: Client, place: Place) -> None:
    with mounted(client.prepare("a"), place.work / "a"):
        client.remove("a")
        client.cleanup()
    assert client.walk() == []


def test_a_view_cannot_be_written(client: Client, build: Build, place: Place) -> None:
    build("c2", build("c1"))
    for parent in ("c1", "c2"):
        with (
            mounted(client.view(f"v-{parent}", parent), place.work / f"v-{parent}") as directory,
            pytest.raises(OSError, match="Read-only"),
        ):
            write(directory, testfile="x")


def test_mounts_are_given_again(client: Client, build: Build, place: Place) -> None:
    build("c2", build("c1"))
    for key, given in (("a", client.prepare("a", "c2")), ("v", client.view("v", "c2"))):
        assert list(client.mounts(key)) == list(given)
    with refused(StatusCode.FAILED_PRECONDITION):
        client.mounts("c2")
    with refused(StatusCode.NOT_FOUND):
        client.mounts("missing")


def test_the_root_directory_of_a_snapshot_is_0755_whatever_the_umask(
    client: Client, place: Place
) -> None:
    before = os.umask(0o077)
    try:
        mounts = client.prepare("a")
    finally:
        os.umask(before)
    with mounted(mounts, place.work / "a") as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_deleted_and_moved_files_stay_so_in_the_layers_above(
    client: Client, build: Build, place: Place
) -> None:
    def first(directory: Path) -> None:
        for name in ("dir1", "dir2"):
            (directory / name).mkdir()
        write(directory / "dir1", f1="Hello")
        write(directory / "dir2", f2="...")
        write(directory, foobar="foobar")

    def second(directory: Path) -> None:
        (directory / "foobar").unlink()
        (directory / "dir3").mkdir()
        (directory / "dir1" / "f1").rename(directory / "dir3" / "f1")
        (directory / "dir1").rmdir()
        (directory / "dir3" / "f2").hardlink_to(directory / "dir2" / "f2")
        (directory / "dir2" / "f2").unlink()

    def third(directory: Path) -> None:
        (directory / "dir3").mkdir(exist_ok=True)
        (directory / "dir3" / "f2").rename(directory / "f2")

    expected = {"dir2": "/", "dir3": "/", "dir3/f1": "Hello", "f2": "..."}
    build("c3", build("c2", build("c1", "", first), second), third)
    with mounted(client.view("v", "c3"), place.work / "v") as directory:
        assert tree(directory) == expected
    with mounted(client.prepare("a", "c3"), place.work / "a") as directory:
        assert tree(directory) == expected


def test_a_directory_replaced_in_a_layer_hides_the_old_ones_files(
    client: Client, build: Build, place: Place
) -> None:
    def first(directory: Path) -> None:
        (directory / "d").mkdir()
        write(directory / "d", old="old")

    def second(directory: Path) -> None:
        (directory / "d" / "old").unlink()
        (directory / "d").rmdir()
        (directory / "d").mkdir()
        write(directory / "d", new="new")

    build("c2", build("c1", "", first), second)
    with mounted(client.view("v", "c2"), place.work / "v") as directory:
        assert tree(directory) == {"d": "/", "d/new": "new"}


def test_owners_and_modes_reach_the_layers_above(
    client: Client, build: Build, place: Place
) -> None:
    def first(directory: Path) -> None:
        (directory / "opt").mkdir()
        write(directory, foo="x")

    def second(directory: Path) -> None:
        os.chown(directory / "opt", 1, 2)
        (directory / "foo").chmod(0o4755)

    build("c2", build("c1", "", first), second)
    with mounted(client.view("v", "c2"), place.work / "v") as directory:
        status = (directory / "opt").stat()
        assert (status.st_uid, status.st_gid) == (1, 2)
        assert stat.S_IMODE((directory / "foo").stat().st_mode) == 0o4755


def test_128_layers_are_mounted(client: Client, build: Build, place: Place) -> None:
    parent = ""
    for number in range(128):

        def change(directory: Path, number: int = number) -> None:
            write(directory, overwritten=str(number), **{f"file-{number}": "same"})

        parent = build(f"c{number}", parent, change)
    with mounted(client.prepare("a", parent), place.work / "a") as directory:
        assert (directory / "overwritten").read_text() == "127"
        assert len(list(directory.iterdir())) == 129
    with mounted(client.view("v", parent), place.work / "v") as directory:
        assert (directory / "file-0").read_text() == "same"


def test_the_upper_directory_belongs_to_whoever_owns_the_parents(
    client: Client, build: Build, place: Place
) -> None:
    build("c", "", lambda directory: os.chown(directory, 1000, 2000))
    with mounted(client.prepare("a", "c"), place.work / "a") as directory:
        status = directory.stat()
        assert (status.st_uid, status.st_gid) == (1000, 2000)


def test_the_root_of_a_user_namespace_owns_its_snapshot(client: Client, build: Build) -> None:
    labels = {UID_LABEL: "0:1000:65536", GID_LABEL: "0:2000:65536"}
    mapped = client.prepare("a", labels=labels)
    status = Path(mapped[0].source).stat()
    assert (status.st_uid, status.st_gid) == (1000, 2000)
    (mount,) = client.prepare("b", build("c"), labels)
    assert list(mount.options[:2]) == ["uidmap=0:1000:65536", "gidmap=0:2000:65536"]
    with refused(StatusCode.INVALID_ARGUMENT):
        client.prepare("d", "c", {UID_LABEL: "nonsense"})


def test_a_parent_that_was_chowned_into_the_namespace_is_not_mapped_again(
    client: Client, build: Build
) -> None:
    labels = {UID_LABEL: "0:1000:65536", GID_LABEL: "0:2000:65536"}
    build("c", "", lambda directory: os.chown(directory, 1000, 2000))
    (mount,) = client.prepare("a", "c", labels)
    assert not [option for option in mount.options if option.startswith("uidmap")]


def test_what_was_refused_leaves_nothing_behind(client: Client, place: Place) -> None:
    with refused(StatusCode.INVALID_ARGUMENT):
        client.prepare("a", "", {UID_LABEL: "nonsense"})
    assert client.walk() == []
    assert place.layers() == []


def test_update_replaces_labels_and_touches_nothing_else(client: Client, build: Build) -> None:
    client.prepare("a", build("c"), {"old": "1"})
    before = client.stat("a")
    time.sleep(0.002)
    changed = api.Info(name="a", parent="doesnotexist", labels={"l1": "v1", "l2": "v2"})
    after = client.update(changed)
    assert dict(after.labels) == {"l1": "v1", "l2": "v2"}
    assert (after.parent, after.kind, after.created_at) == ("c", api.ACTIVE, before.created_at)
    assert after.updated_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
    assert client.stat("a") == after


def test_update_of_paths_changes_these_labels_only(client: Client) -> None:
    client.prepare("a", labels={"l1": "v1", "l2": "v2", "l3": "v3", "with.dots": "v"})
    changed = api.Info(name="a", labels={"l1": "updated", "l4": "v4"})
    after = client.update(changed, "labels.l1", "labels.l2", "labels.with.dots")
    assert dict(after.labels) == {"l1": "updated", "l3": "v3"}
    assert dict(client.update(changed, "labels").labels) == {"l1": "updated", "l4": "v4"}


def test_update_refuses_what_is_immutable(client: Client) -> None:
    client.prepare("a")
    for path in ("parent", "kind", "name", "labelsx"):
        with refused(StatusCode.INVALID_ARGUMENT):
            client.update(api.Info(name="a", parent="x"), path)
    with refused(StatusCode.NOT_FOUND):
        client.update(api.Info(name="missing"))


def test_walk_finds_by_kind_name_parent_and_labels(client: Client, build: Build) -> None:
    build("p")
    client.prepare("a-np")
    client.prepare("a", "p")
    client.view("v", "p")
    client.prepare("p-wl-a")
    client.commit("p-wl", "p-wl-a", {"l": "1", "containerd.io/snapshot.ref": "sha256:ab"})
    client.prepare("a-wl", "p-wl", {"l": "2"})
    client.view("v-wl", "p-wl", {"l": "3"})
    everything = ["a", "a-np", "a-wl", "p", "p-wl", "v", "v-wl"]
    for filters, expected in (
        ([], everything),
        (["kind==active"], ["a", "a-np", "a-wl"]),
        (["kind==view"], ["v", "v-wl"]),
        (["kind==committed"], ["p", "p-wl"]),
        (["kind!=committed", "name==p"], ["a", "a-np", "a-wl", "p", "v", "v-wl"]),
        (["parent==p"], ["a", "v"]),
        (['parent==""'], ["a-np", "p", "p-wl"]),
        (["labels.l"], ["a-wl", "p-wl", "v-wl"]),
        (["labels.l~=[12]"], ["a-wl", "p-wl"]),
        (["kind==active,labels.l"], ["a-wl"]),
        (["labels.l==1", "labels.l==3"], ["p-wl", "v-wl"]),
        (['labels."containerd.io/snapshot.ref"==sha256:ab,parent==""'], ["p-wl"]),
        (["name==nobody"], []),
    ):
        assert client.walk(*filters) == expected, filters
    with refused(StatusCode.INVALID_ARGUMENT):
        client.walk("name=x")


def test_a_long_list_comes_in_parts(client: Client, build: Build) -> None:
    build("c")
    for number in range(204):
        client.view(f"v{number}", "c")
    assert [len(chunk) for chunk in client.chunks()] == [100, 100, 5]


def test_usage_counts_the_snapshots_own_files(client: Client, build: Build, place: Place) -> None:
    def change(directory: Path) -> None:
        write(directory, big="x" * 100_000)
        (directory / "again").hardlink_to(directory / "big")
        (directory / "directory").mkdir()

    build("c", "", change)
    committed = client.usage("c")
    assert 100_000 <= committed.size < 150_000
    assert committed.inodes == 3
    with mounted(client.prepare("a", "c"), place.work / "a") as directory:
        empty = client.usage("a")
        assert (empty.inodes, empty.size) < (3, 50_000)
        write(directory, more="x" * 50_000)
        assert client.usage("a").size >= 50_000
    client.view("v", "c")
    assert client.usage("v").size == 0
    assert client.usage("c") == committed
    with refused(StatusCode.NOT_FOUND):
        client.usage("missing")


def test_many_clients_at_once_lose_nothing(client: Client, build: Build) -> None:
    build("base")

    def life(number: int) -> None:
        for step in range(5):
            client.prepare(f"{number}-{step}", "base")
            client.commit(f"c-{number}-{step}", f"{number}-{step}", {"n": str(number)})
            client.view(f"v-{number}-{step}", f"c-{number}-{step}")
            assert len(client.walk(f"labels.n=={number}")) == step + 1
        client.remove(f"v-{number}-0")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(life, range(8)))
    assert len(client.walk("kind==committed")) == 1 + 8 * 5
    assert len(client.walk("kind==view")) == 8 * 4


def test_of_many_who_want_one_key_one_gets_it(client: Client, build: Build) -> None:
    build("base")
    start = threading.Barrier(8)

    def attempt(_: int) -> bool:
        start.wait(30)
        try:
            client.prepare("k", "base")
        except Exception:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1
