"""Image volumes, as Kubernetes asks for them: containerd 2.1 and newer."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.cri import Cri
from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import push_model, read_sums, suited, sums_command

AS_DEFAULT = {"plugins": {"io.containerd.cri.v1.images": {"snapshotter": "modelpack"}}}


@pytest.fixture(params=["handler", "default"])
def cri(
    request: pytest.FixtureRequest, machine: Machine, places: Places
) -> Iterator[tuple[Cri, str, Snapshotter, Containerd]]:
    """CRI with modelpack as a runtime handler, and as the default snapshotter."""
    release = next(release for release in releases() if release.has_image_volumes)
    as_default = request.param == "default"
    additions = AS_DEFAULT if as_default else None
    with (
        Snapshotter(machine, places, additions=suited(release)) as snapshotter,
        Containerd(machine, release, places, additions=additions) as containerd,
        Cri(containerd) as cri,
    ):
        yield cri, "" if as_default else "modelpack", snapshotter, containerd


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_pod_reads_a_model_from_its_image_volume(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry, by: str
) -> None:
    client, handler, snapshotter, _ = cri
    model = push_model(snapshotter, registry)
    pulled = client.pull(getattr(model, by))
    assert snapshotter.status()["fetched_bytes"] == 0
    with client.pod(handler=handler) as pod:
        container = pod.run(volumes={"/models": pulled})
        listed = container.exec("sh", "-c", sums_command("/models"))
        assert read_sums(listed, "/models") == model.sums


def test_two_containers_of_a_pod_share_one_mount_and_one_fetch(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry
) -> None:
    client, handler, snapshotter, _ = cri
    model = push_model(snapshotter, registry, tar=True)
    pulled = client.pull(model.tag)
    with client.pod(handler=handler) as pod:
        for name in ("first", "second"):
            container = pod.run(name, volumes={"/models": pulled})
            listed = container.exec("sh", "-c", sums_command("/models"))
            assert read_sums(listed, "/models") == model.sums
        (mounted,) = snapshotter.status()["models"]
        assert snapshotter.status()["fetched_bytes"] <= mounted["size_bytes"]


def test_a_model_whose_image_is_removed_while_in_use_reads_on(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry
) -> None:
    client, handler, snapshotter, _ = cri
    model = push_model(snapshotter, registry)
    pulled = client.pull(model.tag)
    with client.pod(handler=handler) as pod:
        container = pod.run(volumes={"/models": pulled})
        client.remove_image(model.tag)
        listed = container.exec("sh", "-c", sums_command("/models"))
        assert read_sums(listed, "/models") == model.sums


def test_a_model_the_registry_no_longer_has_fails_the_container_and_says_why(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry
) -> None:
    client, handler, snapshotter, _ = cri
    model = push_model(snapshotter, registry)
    pulled = client.pull(model.tag)
    registry.stop()
    with (
        client.pod(handler=handler) as pod,
        pytest.raises(grpc.RpcError, match="connection refused"),
    ):
        pod.run(volumes={"/models": pulled})
    registry.start()
