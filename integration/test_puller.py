"""`modelpack pull`: what it leaves in containerd stays, and comes back when it was collected."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from integration.harness.containerd import Containerd, Release, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, suited

NEWEST = releases()[0]


@pytest.fixture
def containerd(
    machine: Machine, places: Places, release: Release, snapshotter: Snapshotter
) -> Iterator[Containerd]:
    with Containerd(machine, release, places) as containerd:
        yield containerd


@pytest.fixture
def snapshotter(machine: Machine, places: Places, release: Release) -> Iterator[Snapshotter]:
    with Snapshotter(machine, places, additions=suited(release)) as snapshotter:
        yield snapshotter


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry) -> PushedModel:
    return push_model(snapshotter, registry)


def contents(containerd: Containerd, namespace: str) -> set[str]:
    return set(containerd.ctr("content", "ls", "-q", namespace=namespace).split())


def committed(containerd: Containerd) -> list[str]:
    listed = containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls").splitlines()[1:]
    return [line.split()[0] for line in listed if line.split()[-1] == "Committed"]


def collect(containerd: Containerd, namespace: str) -> None:
    """Have containerd collect what nothing refers to, and wait for it."""
    containerd.ctr("leases", "create", "--id", "nothing", namespace=namespace)
    containerd.ctr("leases", "rm", "--sync", "nothing", namespace=namespace)


@pytest.mark.parametrize(("by", "form"), [("tag", "stub"), ("digest", "direct")])
def test_what_it_leaves_outlives_a_collection_and_what_is_gone_comes_back(
    containerd: Containerd, snapshotter: Snapshotter, model: PushedModel, by: str, form: str
) -> None:
    namespace, name = "k8s.io", getattr(model, by)
    pull = ("pull", "--namespace", namespace, "--as", form, "--json", name)
    pulled = json.loads(snapshotter.modelpack(*pull))
    whole = contents(containerd, namespace)
    assert len(whole) == (3 if form == "stub" else 2)
    collect(containerd, namespace)
    assert contents(containerd, namespace) == whole
    assert containerd.ctr("leases", "ls", "-q", namespace=namespace).split() == []
    for content in sorted(whole):
        containerd.ctr("content", "rm", content, namespace=namespace)
        assert json.loads(snapshotter.modelpack(*pull)) == pulled
        collect(containerd, namespace)
        assert contents(containerd, namespace) == whole
    containerd.ctr("images", "rm", "--sync", name, namespace=namespace)
    assert contents(containerd, namespace) == set()
    snapshotter.modelpack(*pull)
    assert contents(containerd, namespace) == whole
    assert containerd.ctr("images", "ls", "-q", namespace=namespace).split() == [name]


def test_labels_that_others_gave_the_image_stay(
    containerd: Containerd, snapshotter: Snapshotter, model: PushedModel
) -> None:
    for namespace in ("default", "k8s.io"):
        pull = ("pull", "--as", "stub", "--namespace", namespace, model.tag)
        snapshotter.modelpack(*pull)
        containerd.ctr("images", "label", model.tag, "team=vision", namespace=namespace)
        snapshotter.modelpack(*pull)
        assert "team=vision" in containerd.ctr("images", "ls", namespace=namespace)


@pytest.mark.parametrize("release", [NEWEST], ids=str)
def test_pulled_again_it_keeps_what_was_unpacked(
    containerd: Containerd, snapshotter: Snapshotter, machine: Machine, model: PushedModel
) -> None:
    """Else a mount that finds the snapshot may have it collected before it is made."""
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    mount = ("images", "mount", "--snapshotter", "modelpack", model.tag)
    target = str(machine.directory("mounted"))
    containerd.ctr(*mount, target)
    containerd.ctr("images", "unmount", "--rm", "--snapshotter", "modelpack", target)
    unpacked = committed(containerd)
    assert len(unpacked) == 1
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    collect(containerd, "default")
    assert committed(containerd) == unpacked


@pytest.mark.parametrize("release", [NEWEST], ids=str)
def test_namespaces_have_a_model_each_for_itself(
    containerd: Containerd, snapshotter: Snapshotter, model: PushedModel
) -> None:
    """containerd has the bytes once then, but keeps and collects them for each."""
    pulls = {"default": model.tag, "k8s.io": model.tag, "moby": model.digest}
    for namespace, name in pulls.items():
        snapshotter.modelpack("pull", "--namespace", namespace, "--as", "stub", name)
    for namespace, name in pulls.items():
        collect(containerd, namespace)
        assert len(contents(containerd, namespace)) == 3
        assert containerd.ctr("images", "ls", "-q", namespace=namespace).split() == [name]
    containerd.ctr("images", "rm", "--sync", model.tag)
    assert contents(containerd, "default") == set()
    assert len(contents(containerd, "k8s.io")) == 3


@pytest.mark.parametrize("release", [NEWEST], ids=str)
def test_a_tag_that_moved_is_followed(
    containerd: Containerd, snapshotter: Snapshotter, registry: Registry, model: PushedModel
) -> None:
    first = json.loads(snapshotter.modelpack("pull", "--json", model.tag))
    before = contents(containerd, "default")
    push_model(snapshotter, registry, seed=2)
    second = json.loads(snapshotter.modelpack("pull", "--json", model.tag))
    assert first["name"] == second["name"]
    assert first["target"] != second["target"]
    collect(containerd, "default")
    assert not contents(containerd, "default") & before


@pytest.mark.parametrize("release", [NEWEST], ids=str)
def test_what_is_no_model_leaves_nothing(
    containerd: Containerd, snapshotter: Snapshotter, registry: Registry
) -> None:
    containerd.import_rootfs()
    name = f"{registry.host}/plain:1"
    containerd.ctr("images", "push", "--plain-http", name, "registry.test/rootfs:latest")
    with pytest.raises(CommandError, match="is no model"):
        snapshotter.modelpack("pull", "-n", "k8s.io", "--plain-http", name)
    assert contents(containerd, "k8s.io") == set()
    assert containerd.ctr("leases", "ls", "-q", namespace="k8s.io").split() == []
