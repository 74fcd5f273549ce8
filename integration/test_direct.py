"""Models that containerd knows by their own manifest: which one does a key ask for?"""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from integration.harness.containerd import Containerd
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model
from proto.containerd.services.snapshots.v1.snapshots_pb2 import PrepareSnapshotRequest
from proto.containerd.services.snapshots.v1.snapshots_pb2_grpc import SnapshotsStub
from snapshotter.artifact.marker import ModelRef
from snapshotter.errors import ModelpackError
from snapshotter.images.containerd import Containerd as Client
from snapshotter.images.direct import find_image_volume

DOCKER, KUBERNETES = "moby", "k8s.io"


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry) -> PushedModel:
    return push_model(snapshotter, registry)


CONTAINER = "ab" * 32


def docker_key(source: str) -> str:
    """What dockerd calls the snapshot of ``--mount type=image,source=...`` in later versions.

    (That of 28 is in the tests with a real dockerd.)
    """
    return f"{CONTAINER},src={source},dst=/models".encode().hex()


def prepare(places: Places, namespace: str, key: str) -> Path:
    """Through containerd, as its clients do; the source of the mount."""
    # It has no lease, and containerd collects what nobody refers to, after a pull for instance.
    labels = {"containerd.io/gc.root": "now"}
    with grpc.insecure_channel(f"unix:{places.containerd}") as channel:
        answer = SnapshotsStub(channel).Prepare(
            PrepareSnapshotRequest(snapshotter="modelpack", key=key, labels=labels),
            metadata=(("containerd-namespace", namespace),),
            timeout=60,
        )
    (mount,) = answer.mounts
    assert mount.type == "bind"
    return Path(mount.source)


def find(places: Places, key: str) -> ModelRef | None:
    with Client(places.containerd) as client:
        return find_image_volume(key, client)


def test_dockers_mount_of_a_model_by_digest_shows_its_files(
    snapshotter: Snapshotter, newest_containerd: Containerd, places: Places, model: PushedModel
) -> None:
    snapshotter.modelpack("pull", "--namespace", DOCKER, model.digest)
    source = prepare(places, DOCKER, docker_key(model.digest))
    listed = newest_containerd.machine.run(["ls", str(source)]).stdout.split()
    assert "config.json" in listed


@pytest.mark.parametrize("source", ["r.example/m:1", "m@sha256:" + "0" * 64, "sha256:" + "0" * 64])
def test_dockers_mount_of_what_is_no_model_fails_rather_than_show_nothing(
    newest_containerd: Containerd, places: Places, source: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        prepare(places, DOCKER, docker_key(source))
    assert "modelpack pull --docker" in str(refused.value)


def test_a_container_of_docker_that_starts_from_nothing_is_no_mount_of_an_image(
    newest_containerd: Containerd, places: Places
) -> None:
    for key in (
        *(CONTAINER, f"{CONTAINER}-init", f"{CONTAINER}-init-key", f"{CONTAINER}-parent-view"),
        *("abc", f"{CONTAINER},src=x,dst=y"),
    ):
        assert find(places, f"{DOCKER}/7/{key}") is None


@pytest.mark.parametrize(
    "state", ["/run/containerd/io.containerd.grpc.v1.cri", "/s p/image-volumes"]
)
def test_a_volume_of_kubernetes_is_found_wherever_cri_keeps_its_state(
    snapshotter: Snapshotter,
    newest_containerd: Containerd,
    places: Places,
    model: PushedModel,
    state: str,
) -> None:
    snapshotter.modelpack("pull", "--namespace", "name_space.1-x", "--as", "direct", model.tag)
    digest = model.digest.rpartition("@")[2]
    found = find(places, f"name_space.1-x/12/{state}/image-volumes/0123ab/{digest[7:]}")
    assert found is not None
    assert str(found) == model.digest
    assert find(places, f"other/12/{state}/image-volumes/0123ab/{digest[7:]}") is None


def test_an_image_whose_names_say_no_registry_is_an_error(
    snapshotter: Snapshotter, newest_containerd: Containerd, places: Places, model: PushedModel
) -> None:
    snapshotter.modelpack("pull", "--namespace", KUBERNETES, "--as", "direct", model.tag)
    newest_containerd.ctr("images", "tag", model.tag, "plain", namespace=KUBERNETES)
    newest_containerd.ctr("images", "rm", model.tag, namespace=KUBERNETES)
    digest = model.digest.rpartition("@")[2]
    with pytest.raises(ModelpackError, match=r"plain.*pull it again by its full reference"):
        find(places, f"{KUBERNETES}/1//run/image-volumes/0123ab/{digest[7:]}")


def test_a_name_with_tag_and_digest_is_known_as_cri_asks_for_it(
    snapshotter: Snapshotter, newest_containerd: Containerd, model: PushedModel
) -> None:
    digest = model.digest.rpartition("@")[2]
    snapshotter.modelpack("pull", "--namespace", KUBERNETES, f"{model.tag}@{digest}")
    assert newest_containerd.ctr("images", "ls", "-q", namespace=KUBERNETES).split() == [
        model.digest
    ]
