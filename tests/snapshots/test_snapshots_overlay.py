from __future__ import annotations

from pathlib import Path

import pytest

from snapshotter.snapshots.errors import InvalidArgument, SnapshotError
from snapshotter.snapshots.idmap import GID_LABEL, UID_LABEL, mapped_root
from snapshotter.snapshots.overlay import (
    Layer,
    check_root,
    idmap_options,
    layer_mount,
    may_look_at_an_image,
    model_mount,
)
from snapshotter.snapshots.snapshot import Kind

OWN = Layer("/r/3/fs", "/r/3/work")
LOWERS = ["/r/2/fs", "/r/1/fs"]


def test_an_active_snapshot_without_parent_is_its_directory() -> None:
    mount = layer_mount(Kind.ACTIVE, OWN, [], options=("index=off",))
    assert (mount.type, mount.source, mount.options) == ("bind", "/r/3/fs", ("rw", "rbind"))


def test_a_view_of_nothing_is_an_empty_directory_that_cannot_be_written() -> None:
    mount = layer_mount(Kind.VIEW, OWN, [])
    assert (mount.type, mount.source, mount.options) == ("bind", "/r/3/fs", ("ro", "rbind"))


def test_a_view_of_one_layer_is_that_layer_read_only() -> None:
    mount = layer_mount(Kind.VIEW, OWN, LOWERS[:1], options=("index=off",))
    assert (mount.type, mount.source, mount.options) == ("bind", "/r/2/fs", ("ro", "rbind"))


def test_a_view_of_two_layers_has_no_upper_directory() -> None:
    mount = layer_mount(Kind.VIEW, OWN, LOWERS, options=("index=off",))
    assert (mount.type, mount.source) == ("overlay", "overlay")
    assert mount.options == ("lowerdir=/r/2/fs:/r/1/fs", "index=off")


def test_an_active_snapshot_writes_into_its_own_directory() -> None:
    mount = layer_mount(Kind.ACTIVE, OWN, LOWERS)
    assert mount.options == (
        "workdir=/r/3/work",
        "upperdir=/r/3/fs",
        "lowerdir=/r/2/fs:/r/1/fs",
    )


def test_ids_are_mapped_by_the_mount() -> None:
    options = idmap_options({UID_LABEL: "0:1000:10", GID_LABEL: "0:2000:10"})
    mount = layer_mount(Kind.ACTIVE, OWN, LOWERS, idmap=options)
    assert mount.options[:2] == ("uidmap=0:1000:10", "gidmap=0:2000:10")
    assert idmap_options({}) == ()


def test_a_model_is_bound_read_only_with_flags_that_survive_the_remount() -> None:
    mount = model_mount(Path("/run/m"))
    assert (mount.type, mount.source) == ("bind", "/run/m")
    assert mount.options == ("ro", "rbind", "nosuid", "nodev")


def test_a_model_whose_ids_are_mapped_does_not_say_that_it_is_read_only() -> None:
    """containerd maps no bind mount that it has to remount for that."""
    mount = model_mount(Path("/run/m"), ("uidmap=0:1000:10", "gidmap=0:2000:10"))
    assert mount.options == ("uidmap=0:1000:10", "gidmap=0:2000:10", "rbind", "nosuid", "nodev")


@pytest.mark.parametrize("root", ["/a,b", "/a:b", "/a\\b"])
def test_a_root_that_overlayfs_could_not_name_is_refused(root: str) -> None:
    with pytest.raises(SnapshotError, match="choose another root"):
        check_root(Path(root))


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (Kind.VIEW, "default/7//mnt/model"),
        (Kind.VIEW, "default/7/v"),
        (Kind.ACTIVE, "default/7//mnt/model"),
    ],
)
def test_somebody_who_may_want_to_see_an_image_is_asked_about(kind: Kind, key: str) -> None:
    assert may_look_at_an_image(kind, key)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (Kind.ACTIVE, "default/7/extract-123-abc sha256:1234"),
        (Kind.ACTIVE, "moby/7/0123456789ab-init"),
        (Kind.ACTIVE, "a"),
        (Kind.ACTIVE, "/mnt/model"),
        (Kind.VIEW, "v"),
        (Kind.VIEW, "default/8/-parent-view-1234"),
        (Kind.VIEW, "moby/8/0123456789ab-parent-view"),
    ],
)
def test_who_starts_from_nothing_may(kind: Kind, key: str) -> None:
    assert not may_look_at_an_image(kind, key)


def test_the_root_of_a_user_namespace_is_found() -> None:
    assert mapped_root({}) is None
    assert mapped_root({UID_LABEL: "0:1000:10", GID_LABEL: "5:1:2,0:2000:10"}) == (1000, 2000)
    assert mapped_root({UID_LABEL: "0:1000:10"}) == (1000, 0)


@pytest.mark.parametrize("mapping", ["x", "0:1", "0:1:2:3", "1:2:3", "0:-1:1", "0:4294967295:1"])
def test_a_mapping_without_root_or_sense_is_refused(mapping: str) -> None:
    with pytest.raises(InvalidArgument, match="uidmapping"):
        mapped_root({UID_LABEL: mapping})
