"""Private registries and clients that pull by tag: their credentials come through the mirror."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import grpc
import pytest

from integration.harness.containerd import Containerd, Release
from integration.harness.cri import Cri
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.private import logged_in, push_private_model
from integration.harness.registry import PASSWORD, USER, Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, suited
from integration.test_cri_proxy import files_with
from integration.test_ctr import mount_image
from proto.cri.runtime.v1 import api_pb2 as api

REFUSED = r"(?i)authoriz|refused access"


@pytest.fixture
def snapshotter(machine: Machine, places: Places, release: Release) -> Iterator[Snapshotter]:
    additions = {"log": {"level": "debug"}} | suited(release)
    with Snapshotter(machine, places, additions=additions) as snapshotter:
        yield snapshotter


@pytest.fixture
def containerd(
    machine: Machine, places: Places, release: Release, snapshotter: Snapshotter
) -> Iterator[Containerd]:
    with Containerd(machine, release, places) as containerd:
        yield containerd


@pytest.fixture
def model(snapshotter: Snapshotter, private_registry: Registry) -> PushedModel:
    return push_private_model(snapshotter, private_registry)


def pull(containerd: Containerd, places: Places, name: str, *options: str) -> None:
    containerd.ctr(
        *("images", "pull", "--snapshotter", "modelpack", "--hosts-dir", str(places.certs)),
        *options,
        name,
    )


def test_ctr_shows_the_mirror_the_user_it_was_given_and_the_model_is_read_with_it(
    containerd: Containerd,
    places: Places,
    snapshotter: Snapshotter,
    machine: Machine,
    model: PushedModel,
) -> None:
    pull(containerd, places, model.tag, "--user", f"{USER}:{PASSWORD}")
    target = str(machine.directory("mounted"))
    mount_image(containerd, model.tag, target)
    shard = next(name for name in model.sums if name.endswith(".safetensors"))
    summed = machine.run(["sha256sum", f"{target}/{shard}"]).stdout.split()[0]
    assert summed == model.sums[shard]
    machine.run(["umount", target])
    assert files_with(machine.root, PASSWORD.encode()) == []


def test_a_client_that_shows_nothing_gets_what_the_node_may_see(
    containerd: Containerd,
    places: Places,
    snapshotter: Snapshotter,
    machine: Machine,
    private_registry: Registry,
    model: PushedModel,
) -> None:
    with logged_in(snapshotter, private_registry.host):
        pull(containerd, places, model.tag)
        target = str(machine.directory("mounted"))
        mount_image(containerd, model.tag, target)
        shard = next(name for name in model.sums if name.endswith(".safetensors"))
        summed = machine.run(["sha256sum", f"{target}/{shard}"]).stdout.split()[0]
        assert summed == model.sums[shard]
        machine.run(["umount", target])


@pytest.mark.parametrize("user", [(), ("--user", f"{USER}:wrong-password")])
def test_ctr_without_a_good_user_gets_the_registrys_refusal(
    containerd: Containerd, places: Places, model: PushedModel, user: tuple[str, ...]
) -> None:
    with pytest.raises(CommandError, match=REFUSED):
        pull(containerd, places, model.tag, *user)


def test_what_one_client_may_see_another_may_not(
    containerd: Containerd, places: Places, model: PushedModel
) -> None:
    pull(containerd, places, model.tag, "--user", f"{USER}:{PASSWORD}")
    containerd.ctr("images", "rm", "--sync", model.tag)
    # Of a repository known to hold models the mirror says itself why it cannot be pulled.
    with pytest.raises(CommandError, match=r"300 ModelPack artifact .* refused access .* 401"):
        pull(containerd, places, model.tag)


def test_pods_hand_over_their_pull_secret(
    containerd: Containerd, snapshotter: Snapshotter, machine: Machine, model: PushedModel
) -> None:
    contents = machine.root / "containerd/root/io.containerd.content.v1.content/blobs"

    def sizes() -> dict[str, int]:
        found = {}
        for path in contents.glob("*/*"):
            with suppress(FileNotFoundError):  # collected meanwhile
                found[path.name] = path.stat().st_size
        return found

    with Cri(containerd) as cri:
        with pytest.raises(grpc.RpcError, match=REFUSED):
            cri.pull(model.tag)
        before = sizes()
        cri.pull(model.tag, auth=api.AuthConfig(username=USER, password=PASSWORD))
    # A stub image, or a manifest without its layers: in no case the model.
    assert sum(size for name, size in sizes().items() if name not in before) < 64 << 10
    assert snapshotter.status()["fetched_bytes"] == 0
