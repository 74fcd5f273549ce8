"""Image volumes, as Kubernetes asks for them: containerd 2.1 and newer."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.cri import NAMESPACE, Cri, PulledImage
from integration.harness.machine import Machine
from integration.harness.pages import CONTAINERD, DAEMON, toml_block
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, suited, sums_command
from integration.test_cri_pods import eventually

AS_DEFAULT = toml_block("kubernetes.md", CONTAINERD, "snapshotter")


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


def read_config(model: PushedModel) -> str:
    return (model.source / "config.json").read_text()


def volumes_of(containerd: Containerd) -> list[str]:
    """Keys of snapshots that are image volumes."""
    listed = containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls", namespace=NAMESPACE)
    return [line.split()[0] for line in listed.splitlines() if "/image-volumes/" in line]


def test_a_model_of_a_registry_that_is_not_named_is_refused_with_what_to_do(
    machine: Machine, places: Places, registry: Registry
) -> None:
    release = next(release for release in releases() if release.has_image_volumes)
    additions = toml_block("kubernetes.md", DAEMON, "registries") | suited(release)
    with (
        Snapshotter(machine, places, additions=additions) as snapshotter,
        Containerd(machine, release, places, additions=AS_DEFAULT) as containerd,
        Cri(containerd) as client,
    ):
        pulled = client.pull(push_model(snapshotter, registry).tag)
        with client.pod() as pod, pytest.raises(grpc.RpcError, match=r"\[images\] registries"):
            pod.run(volumes={"/models": pulled})


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


def test_a_volume_is_the_image_by_its_id_its_tag_or_its_digest(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry
) -> None:
    client, handler, snapshotter, _ = cri
    model = push_model(snapshotter, registry)
    pulled = client.pull(model.tag)
    client.pull(model.digest)
    with client.pod(handler=handler) as pod:
        volumes = {
            f"/by-{number}": PulledImage(name, name)
            for number, name in enumerate((pulled.id, model.tag, model.digest))
        }
        container = pod.run(volumes=volumes)
        for path in volumes:
            assert container.exec("cat", f"{path}/config.json") == read_config(model)


def test_a_volume_is_gone_with_its_pod_and_there_again_in_the_next(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry
) -> None:
    client, handler, snapshotter, containerd = cri
    model = push_model(snapshotter, registry)
    pulled = client.pull(model.tag)
    for _ in range(2):
        with client.pod(handler=handler) as pod:
            container = pod.run(volumes={"/models": pulled})
            assert container.exec("cat", "/models/config.json") == read_config(model)
            assert len(snapshotter.status()["models"]) == 1
        eventually(lambda: not volumes_of(containerd), "the volume's snapshot is collected")
        eventually(lambda: snapshotter.status()["models"] == [], "the model is unmounted")
    client.remove_image(model.tag)
    assert not client.knows(model.tag)
    client.pull(model.digest)
    with client.pod(handler=handler) as pod:
        container = pod.run(volumes={"/models": client.pull(model.digest)})
        assert container.exec("cat", "/models/config.json") == read_config(model)


def test_a_volume_goes_on_while_containerd_restarts(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry
) -> None:
    client, handler, snapshotter, containerd = cri
    model = push_model(snapshotter, registry)
    pulled = client.pull(model.tag)
    with client.pod(handler=handler) as pod:
        container = pod.run(volumes={"/models": pulled})
        containerd.stop()
        containerd.start()
        eventually(lambda: client.knows(model.tag), "the image after the restart")
        listed = container.exec("sh", "-c", sums_command("/models"))
        assert read_sums(listed, "/models") == model.sums
        second = pod.run("second", volumes={"/models": pulled})
        assert second.exec("cat", "/models/config.json") == read_config(model)


def test_a_part_of_a_volume_is_mounted_where_the_version_knows_how(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry
) -> None:
    client, handler, snapshotter, containerd = cri
    part = push_model(snapshotter, registry).source / "part"
    part.mkdir()
    (part / "adapter.json").write_text("{}")
    model = push_model(snapshotter, registry, name="models/parts")
    pulled = client.pull(model.tag)
    with client.pod(handler=handler) as pod:
        container = pod.run(volumes={"/models": pulled}, sub_path="part")
        found = set(container.exec("ls", "/models").split())
    version = tuple(map(int, containerd.release.exact().split(".")[:2]))
    whole = {name.partition("/")[0] for name in model.sums}
    # containerd before 2.2 passes the field unread.
    assert found == ({"adapter.json"} if version >= (2, 2) else whole)


def test_a_model_in_two_registries_is_read_from_the_one_that_still_gives_it(
    cri: tuple[Cri, str, Snapshotter, Containerd], registry: Registry, machine: Machine
) -> None:
    client, handler, snapshotter, _ = cri
    with Registry(machine, name="second") as second:
        here = push_model(snapshotter, registry)
        there = push_model(snapshotter, second)
        assert here.digest.rpartition("@")[2] == there.digest.rpartition("@")[2]
        pulled = client.pull(here.tag)
        with client.pod("one", handler=handler) as pod:
            pod.run(volumes={"/models": pulled})
            registry.stop()
            client.remove_image(here.tag)
            again = client.pull(there.tag)
            with client.pod("two", handler=handler) as other:
                container = other.run(volumes={"/models": again})
                listed = container.exec("sh", "-c", sums_command("/models"))
                assert read_sums(listed, "/models") == there.sums


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
