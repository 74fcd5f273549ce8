"""What integration tests ask for by name. Everything is real, and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from integration.harness.containerd import Containerd, Release, releases
from integration.harness.machine import Machine, control_groups, mounted_under
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """After the last test: no mount, no directory and no control group of ours."""
    yield
    for root in Machine.made:
        left = [root] if root.exists() else [*mounted_under(root), *control_groups(root)]
        assert not left, f"tests left {', '.join(map(str, left))}"


@pytest.fixture
def machine() -> Iterator[Machine]:
    """A directory and a namespace of its own."""
    with Machine() as machine:
        yield machine


@pytest.fixture
def places(machine: Machine) -> Places:
    return Places.of(machine)


@pytest.fixture(params=releases(), ids=str)
def release(request: pytest.FixtureRequest) -> Release:
    """Each containerd there is."""
    chosen: Release = request.param
    return chosen


@pytest.fixture
def containerd(machine: Machine, places: Places, release: Release) -> Iterator[Containerd]:
    """Each containerd with the sample configuration, and the image for containers imported."""
    with Containerd(machine, release, places) as containerd:
        containerd.import_rootfs()
        yield containerd


@pytest.fixture
def snapshotter(machine: Machine, places: Places) -> Iterator[Snapshotter]:
    """The daemon, its log as JSON."""
    with Snapshotter(machine, places, additions={"log": {"format": "json"}}) as snapshotter:
        yield snapshotter


@pytest.fixture
def newest_containerd(
    machine: Machine, places: Places, snapshotter: Snapshotter
) -> Iterator[Containerd]:
    """The containerd that can do most, with the daemon, without an image."""
    with Containerd(machine, releases()[0], places) as containerd:
        yield containerd


@pytest.fixture
def registry(machine: Machine) -> Iterator[Registry]:
    with Registry(machine) as registry:
        yield registry


@pytest.fixture
def private_registry(machine: Machine) -> Iterator[Registry]:
    """A registry that wants :data:`harness.registry.USER` and ``PASSWORD``."""
    with Registry(machine, name="private", private=True) as registry:
        yield registry
