"""Layers of the daemon's snapshots, mounted for real: what is changed, counted and mapped."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.snapshots import Snapshots, code_of, mounted
from integration.harness.snapshotter import Snapshotter

UIDS, GIDS = "containerd.io/snapshot/uidmapping", "containerd.io/snapshot/gidmapping"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Snapshotter]:
    with Machine() as machine, Snapshotter(machine, Places.of(machine)) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def client(daemon: Snapshotter) -> Iterator[Snapshots]:
    with Snapshots(daemon.places.state / "snapshotter.sock") as client:
        yield client


@pytest.fixture(scope="module")
def work(daemon: Snapshotter) -> Path:
    return daemon.machine.directory("work")


def facts(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything a layer must carry: types, modes, owners, contents, links, attributes."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [root, *sorted(root.rglob("*"))]:
        status = path.lstat()
        name = str(path.relative_to(root))
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif stat.S_ISCHR(status.st_mode):
            content = status.st_rdev
        attributes = {
            attribute: os.getxattr(path, attribute, follow_symlinks=False)
            for attribute in os.listxattr(path, follow_symlinks=False)
            if attribute.startswith(("user.", "security.capability"))
        }
        found[name] = (status.st_mode, status.st_uid, status.st_gid, content, attributes)
    return found


# What happens to a file system between two commits. Each is done in the snapshot and in
# a plain directory, and both must stay the same. No hard links: overlayfs breaks those of
# lower layers when it copies one of them up.

Change = Callable[[Path], object]
NAMES = ("a", "b", "d", "d/x", "d/y", "e", "e/f", "e/f/g")


def put(root: Path, name: str, text: str) -> None:
    target = root / name
    if target.parent.is_dir() and not target.parent.is_symlink() and not target.is_dir():
        target.unlink(missing_ok=True)
        target.write_text(text)


def remove(root: Path, name: str) -> None:
    target = root / name
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)
    elif target.parent.is_dir():
        target.unlink(missing_ok=True)


def make_directory(root: Path, name: str) -> None:
    if (root / name).parent.is_dir() and not (root / name).exists():
        (root / name).mkdir()


def replace_directory(root: Path, name: str) -> None:
    """In overlayfs: an opaque one."""
    if (root / name).is_dir():
        remove(root, name)
        make_directory(root, name)


def move(root: Path, name: str, to: str) -> None:
    source, target = root / name, root / to
    inside = target.is_relative_to(source) or source.is_relative_to(target)
    if source.exists() and target.parent.is_dir() and not inside:
        remove(root, to)
        source.rename(target)


def change_owner(root: Path, name: str, id: int) -> None:
    if (root / name).exists():
        os.chown(root / name, id, id + 1)


def change_mode(root: Path, name: str, mode: int) -> None:
    if (root / name).exists():
        (root / name).chmod(mode)


def append(root: Path, name: str, text: str) -> None:
    if (root / name).is_file():
        with (root / name).open("a") as file:
            file.write(text)


def set_attribute(root: Path, name: str, value: bytes) -> None:
    if (root / name).exists():
        os.setxattr(root / name, "user.mark", value)


_name, _text = st.sampled_from(NAMES), st.text("xyz", max_size=4)
CHANGES = st.one_of(
    st.tuples(st.just(put), _name, _text),
    st.tuples(st.just(remove), _name),
    st.tuples(st.just(make_directory), _name),
    st.tuples(st.just(replace_directory), _name),
    st.tuples(st.just(move), _name, _name),
    st.tuples(st.just(change_owner), _name, st.integers(0, 70000)),
    st.tuples(st.just(change_mode), _name, st.sampled_from([0o700, 0o4755, 0o1777, 0o640])),
    st.tuples(st.just(append), _name, _text),
    st.tuples(st.just(set_attribute), _name, st.binary(max_size=4)),
)
counter = count()


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(CHANGES, min_size=1, max_size=6), min_size=1, max_size=5))
def test_layers_add_up_to_what_was_done_whatever_it_was(
    client: Snapshots, work: Path, layers: list[list[tuple[Callable[..., object], object]]]
) -> None:
    example = next(counter)
    flat = work / f"flat-{example}"
    flat.mkdir(mode=0o755)
    parent = ""
    for number, changes in enumerate(layers):
        key = f"{example}-{number}"
        with mounted(client.prepare(f"{key} key", parent), work / "m") as directory:
            assert facts(directory) == facts(flat)
            for call, *arguments in changes:
                call(directory, *arguments)
                call(flat, *arguments)
            assert facts(directory) == facts(flat)
        client.commit(key, f"{key} key")
        parent = key
    with mounted(client.view(f"{example} view", parent), work / "m") as directory:
        assert facts(directory) == facts(flat)


def test_a_directory_of_a_lower_layer_is_renamed_and_stays_so(
    client: Snapshots, work: Path
) -> None:
    def make(root: Path) -> None:
        (root / "old" / "deep").mkdir(parents=True)
        (root / "old" / "deep" / "file").write_text("x")

    client.layer("directory", "", work / "m", make)
    client.layer("renamed", "directory", work / "m", lambda root: (root / "old").rename(root / "n"))
    client.layer("again", "renamed", work / "m", lambda root: (root / "n").rename(root / "new"))
    with mounted(client.view("renamed view", "again"), work / "m") as directory:
        found = sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))
        assert found == ["new", "new/deep", "new/deep/file"]
        assert (directory / "new" / "deep" / "file").read_text() == "x"


def test_hard_links_of_one_layer_are_one_file(client: Snapshots, work: Path) -> None:
    def change(directory: Path) -> None:
        (directory / "one").write_text("x" * 10_000)
        (directory / "two").hardlink_to(directory / "one")

    client.layer("links", "", work / "m", change)
    client.layer("above links", "links", work / "m", lambda root: (root / "three").write_text("x"))
    with mounted(client.view("links view", "above links"), work / "m") as directory:
        assert (directory / "one").samefile(directory / "two")
        assert (directory / "one").stat().st_nlink == 2
    assert client.usage("links")[1] == 2  # the root directory and the file


def test_devices_links_pipes_and_capabilities_are_kept(client: Snapshots, work: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")

    def change(directory: Path) -> None:
        os.mknod(directory / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mkfifo(directory / "pipe")
        (directory / "link").symlink_to("/nowhere")
        (directory / "program").write_text("")
        os.setxattr(directory / "program", "security.capability", capability)

    client.layer("special", "", work / "m", change)
    client.layer("above special", "special", work / "m")
    with mounted(client.view("special view", "above special"), work / "m") as directory:
        status = (directory / "null").stat()
        assert (stat.S_ISCHR(status.st_mode), status.st_rdev) == (True, os.makedev(1, 3))
        assert stat.S_ISFIFO((directory / "pipe").stat().st_mode)
        assert str((directory / "link").readlink()) == "/nowhere"
        assert os.getxattr(directory / "program", "security.capability") == capability


def test_128_layers_are_mounted_each_time(client: Snapshots, work: Path) -> None:
    parent = ""
    for number in range(128):

        def change(directory: Path, number: int = number) -> None:
            shutil.rmtree(directory / "only", ignore_errors=True)
            (directory / "only").mkdir()
            (directory / "only" / f"file-{number}").write_text(str(number))
            (directory / "overwritten").write_text(str(number))
            (directory / f"file-{number}").write_text("same")

        parent = client.layer(f"of 128 {number}", parent, work / "m", change)
    for mounts in (client.view("128 view", parent), client.prepare("128 key", parent)):
        with mounted(mounts, work / "m") as directory:
            assert (directory / "overwritten").read_text() == "127"
            assert [path.name for path in (directory / "only").iterdir()] == ["file-127"]
            assert len(list(directory.iterdir())) == 130


def test_mode_and_owner_of_the_root_reach_the_layers_above(client: Snapshots, work: Path) -> None:
    def change(directory: Path) -> None:
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
        directory.chmod(0o711)
        os.chown(directory, 1000, 2000)

    client.layer("root", "", work / "m", change)
    client.layer("above root", "root", work / "m")
    with mounted(client.view("root view", "root"), work / "m") as directory:
        status = directory.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o711, 1000, 2000)
    with mounted(client.view("above root view", "above root"), work / "m") as directory:
        assert (directory.stat().st_uid, directory.stat().st_gid) == (1000, 2000)


def test_a_view_of_one_layer_is_a_bind_and_read_only(client: Snapshots, work: Path) -> None:
    client.layer("one", "", work / "m", lambda root: (root / "file").write_text("x"))
    (mount,) = client.view("one view", "one")
    assert (mount.type, list(mount.options)) == ("bind", ["ro", "rbind"])
    with mounted([mount], work / "m") as directory:
        for refused in (
            lambda: (directory / "file").write_text("y"),
            lambda: (directory / "file").unlink(),
            lambda: directory.chmod(0o700),
        ):
            with pytest.raises(OSError, match="Read-only"):
                refused()


def test_usage_grows_while_a_snapshot_is_written_and_stands_once_it_is_committed(
    client: Snapshots, work: Path
) -> None:
    client.layer("below", "", work / "m", lambda root: (root / "big").write_bytes(b"x" * 500_000))
    with mounted(client.prepare("written", "below"), work / "m") as directory:
        seen = [client.usage("written")]
        for number in range(3):
            (directory / f"file-{number}").write_bytes(b"x" * 100_000)
            seen.append(client.usage("written"))
        sizes, inodes = [size for size, _ in seen], [inodes for _, inodes in seen]
        assert inodes == [1, 2, 3, 4]
        assert all(100_000 <= b - a < 120_000 for a, b in pairwise(sizes))
        (directory / "big").unlink()  # a whiteout
        assert client.usage("written") == (sizes[-1], 5)
    client.commit("committed", "written")
    assert client.usage("committed") == (sizes[-1], 5)
    client.view("seen", "committed")
    assert client.usage("seen") == (0, 0)


@pytest.mark.parametrize("owner", [0, 100_000])
def test_a_snapshot_for_a_user_namespace_belongs_to_its_root(
    owner: int, client: Snapshots, work: Path
) -> None:
    """The parent as it was unpacked: mapped by the mount. As containerd chowned it: not again."""
    labels = {UIDS: "0:100000:65536", GIDS: "0:200000:65536"}
    gid = 2 * owner
    client.layer(f"for {owner}", "", work / "m", lambda root: os.chown(root, owner, gid))
    (mount,) = client.prepare(f"in {owner}", f"for {owner}", labels)
    mapping = [option for option in mount.options if "map=" in option]
    expected = [] if owner else ["uidmap=0:100000:65536", "gidmap=0:200000:65536"]
    assert mapping == expected
    (upper,) = (option[9:] for option in mount.options if option.startswith("upperdir="))
    assert (Path(upper).stat().st_uid, Path(upper).stat().st_gid) == (100_000, 200_000)


@pytest.mark.parametrize("mapping", ["", "0:1", "1:2:3", "a:b:c", "0:-1:1"])
def test_a_mapping_that_maps_no_root_is_refused(mapping: str, client: Snapshots) -> None:
    labels = {UIDS: mapping or "x", GIDS: "0:0:65536"}
    assert code_of(client.prepare, "unmapped", "", labels) == "INVALID_ARGUMENT"
    assert code_of(client.stat, "unmapped") == "NOT_FOUND"
