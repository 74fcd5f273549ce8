"""Ordinary pods with modelpack as the snapshotter of everything, on each containerd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

from integration.harness.containerd import Containerd, Release
from integration.harness.cri import NAMESPACE, Cri
from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.rootfs import ROOTFS_IMAGE
from integration.harness.snapshotter import Snapshotter
from integration.models import suited


def as_default(release: Release) -> dict[str, Any]:
    """What to add to the sample to have modelpack for every pod."""
    if release.has_image_volumes:
        return {"plugins": {"io.containerd.cri.v1.images": {"snapshotter": "modelpack"}}}
    return {"plugins": {"io.containerd.grpc.v1.cri": {"containerd": {"snapshotter": "modelpack"}}}}


@pytest.fixture
def containerd(machine: Machine, places: Places, release: Release) -> Iterator[Containerd]:
    with (
        Snapshotter(machine, places, additions=suited(release)),
        Containerd(machine, release, places, additions=as_default(release)) as containerd,
    ):
        yield containerd


@pytest.fixture
def cri(containerd: Containerd) -> Iterator[Cri]:
    with Cri(containerd) as cri:
        yield cri


def snapshots(containerd: Containerd, kind: str) -> list[str]:
    """Keys of the daemon's snapshots of a kind."""
    listed = containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls", namespace=NAMESPACE)
    rows = [line.split() for line in listed.splitlines()[1:]]
    return [row[0] for row in rows if row[-1] == kind]


def eventually(done: Callable[[], bool], what: str) -> None:
    """containerd collects what nobody needs some time after it was let go."""
    deadline = time.monotonic() + 60
    while True:
        try:
            if done():
                return
        except grpc.RpcError:
            pass  # containerd is coming up
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_containers_of_a_pod_have_file_systems_of_their_own_which_go_with_it(
    cri: Cri, containerd: Containerd
) -> None:
    with cri.pod() as pod:
        first, second = pod.run("first"), pod.run("second")
        first.exec("sh", "-c", "echo 1 > /tmp/number; rm /bin/find")
        assert first.exec("cat", "/tmp/number") == "1\n"
        assert second.exec("sh", "-c", "ls /tmp; ls /bin/find") == "/bin/find\n"
        # The pause container, and these two.
        assert len(snapshots(containerd, "Active")) == 3
        first.remove()
        eventually(lambda: len(snapshots(containerd, "Active")) == 2, "removed")
    eventually(lambda: snapshots(containerd, "Active") == [], "removed with the pod")


def test_an_image_is_pulled_run_and_removed(
    cri: Cri, containerd: Containerd, registry: Registry
) -> None:
    name = f"{registry.host}/plain:1"
    containerd.ctr("images", "push", "--plain-http", name, ROOTFS_IMAGE, namespace=NAMESPACE)
    cri.pull(name)
    with cri.pod() as pod:
        container = pod.run(image=name)
        assert container.exec("echo", "hello") == "hello\n"
        cri.remove_image(name)
        assert container.exec("ls", "/bin/sleep") == "/bin/sleep\n"
    assert not cri.knows(name)


def test_pods_go_on_while_containerd_restarts(cri: Cri, containerd: Containerd) -> None:
    with cri.pod() as pod:
        container = pod.run()
        container.exec("sh", "-c", "echo 1 > /tmp/number")
        containerd.stop()
        containerd.start()
        eventually(lambda: cri.knows(ROOTFS_IMAGE), "the image after the restart")
        assert container.exec("cat", "/tmp/number") == "1\n"
        assert pod.run("second").exec("echo", "hello") == "hello\n"
