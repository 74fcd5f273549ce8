"""The image service proxy between kubelet and containerd, with a private registry behind both."""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.cri import Cri
from integration.harness.images import FileLayer, Image
from integration.harness.machine import Machine
from integration.harness.pages import DAEMON, toml_block
from integration.harness.places import Places
from integration.harness.private import push_private_model
from integration.harness.registry import PASSWORD, USER, Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, read_sums, suited, sums_command
from integration.test_cri_pods import eventually
from integration.test_image_volume import AS_DEFAULT
from proto.cri.runtime.v1 import api_pb2 as api

NEWEST = releases()[0]
SECRET = api.AuthConfig(username=USER, password=PASSWORD)
WITH_PROXY = (
    toml_block("kubernetes.md", DAEMON, "cri") | {"log": {"level": "debug"}} | suited(NEWEST)
)


@pytest.fixture
def daemon(machine: Machine, places: Places) -> Iterator[Snapshotter]:
    with Snapshotter(machine, places, additions=WITH_PROXY) as snapshotter:
        yield snapshotter


@pytest.fixture
def containerd(machine: Machine, places: Places, daemon: Snapshotter) -> Iterator[Containerd]:
    with Containerd(machine, NEWEST, places, additions=AS_DEFAULT) as containerd:
        yield containerd


@pytest.fixture
def cri(containerd: Containerd, places: Places) -> Iterator[Cri]:
    with Cri(containerd, address=f"unix://{places.state}/cri.sock") as cri:
        yield cri


@pytest.fixture
def model(daemon: Snapshotter, private_registry: Registry) -> PushedModel:
    return push_private_model(daemon, private_registry)


def pull_and_read(cri: Cri, model: PushedModel, reference: str) -> None:
    pulled = cri.pull(reference, auth=SECRET)
    with cri.pod() as pod:
        container = pod.run(volumes={"/models": pulled})
        listed = container.exec("sh", "-c", sums_command("/models"))
        assert read_sums(listed, "/models") == model.sums


def files_with(directory: Path, secret: bytes) -> list[Path]:
    """Files below ``directory``, where some may go while others are looked at."""
    found = []
    for root, _, names in os.walk(directory):
        for path in (Path(root, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink() and secret in path.read_bytes():
                    found.append(path)
    return found


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_private_model_is_read_with_the_secret_of_its_pull_which_is_found_nowhere(
    cri: Cri, daemon: Snapshotter, machine: Machine, model: PushedModel, by: str
) -> None:
    pull_and_read(cri, model, getattr(model, by))
    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode())
    for secret in (PASSWORD.encode(), basic):
        assert files_with(machine.root, secret) == []
        assert secret.decode() not in daemon.modelpack("status", "--json")
        for program in Path("/proc").glob("[0-9]*"):
            for told in ("cmdline", "environ"):
                try:
                    assert secret not in (program / told).read_bytes()
                except OSError:
                    continue  # it ended, or is the kernel's
    (kept,) = [
        line for line in daemon.process.log.read_text().splitlines() if "secret kept" in line
    ]
    assert model.tag.rpartition(":")[0] in kept


def test_without_a_secret_a_private_model_is_not_pulled(cri: Cri, model: PushedModel) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        cri.pull(model.tag)
    assert "authorization failed" in str(refused.value)


def test_a_pull_with_a_wrong_secret_spoils_nothing(cri: Cri, model: PushedModel) -> None:
    pulled = cri.pull(model.tag, auth=SECRET)
    with pytest.raises(grpc.RpcError):
        cri.pull(model.tag, auth=api.AuthConfig(username=USER, password="wrong-" + PASSWORD))
    with cri.pod() as pod:
        container = pod.run(volumes={"/models": pulled})
        listed = container.exec("sh", "-c", sums_command("/models"))
        assert read_sums(listed, "/models") == model.sums


def test_kubelet_is_made_to_bring_a_lost_secret_again_until_the_model_is_complete(
    cri: Cri, daemon: Snapshotter, model: PushedModel
) -> None:
    cri.pull(model.tag, auth=SECRET)
    assert cri.knows(model.tag)
    daemon.stop()
    daemon.start()
    assert not cri.knows(model.tag)
    pulled = cri.pull(model.tag, auth=SECRET)
    with cri.pod() as pod:
        container = pod.run(volumes={"/models": pulled})
        listed = container.exec("sh", "-c", sums_command("/models"))
        assert read_sums(listed, "/models") == model.sums
        assert cri.knows(model.tag)
        daemon.wait_until_verified()  # as long as it is mounted: nobody verifies it afterwards
    daemon.stop()
    daemon.start()
    assert cri.knows(model.tag)


def test_a_daemon_that_restarts_has_its_secrets_still_where_the_state_is_in_memory(
    machine: Machine, places: Places, private_registry: Registry
) -> None:
    with ExitStack() as stack:
        state = Path(stack.enter_context(TemporaryDirectory(dir="/dev/shm", prefix="modelpack-")))
        places = replace(places, state=state)
        daemon = stack.enter_context(Snapshotter(machine, places, additions=WITH_PROXY))
        containerd = stack.enter_context(Containerd(machine, NEWEST, places, additions=AS_DEFAULT))
        cri = stack.enter_context(Cri(containerd, address=f"unix://{state}/cri.sock"))
        model = push_private_model(daemon, private_registry)
        pulled = cri.pull(model.tag, auth=SECRET)
        assert stat.S_IMODE((state / "pull-secrets.json").stat().st_mode) == 0o600
        daemon.stop()
        daemon.start()
        assert cri.knows(model.tag)
        with cri.pod() as pod:
            container = pod.run(volumes={"/models": pulled})
            listed = container.exec("sh", "-c", sums_command("/models"))
            assert read_sums(listed, "/models") == model.sums


def test_ordinary_images_go_through_and_their_secrets_are_not_kept(
    cri: Cri, daemon: Snapshotter, registry: Registry, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    Image.of([FileLayer("file", tmp_path / "file")]).push(registry.host, "plain", "1")
    cri.pull(f"{registry.host}/plain:1", auth=SECRET)
    assert cri.knows(f"{registry.host}/plain:1")
    cri.remove_image(f"{registry.host}/plain:1")
    assert not cri.knows(f"{registry.host}/plain:1")
    assert "secret kept" not in daemon.process.log.read_text()


def test_errors_are_containerds_own(cri: Cri, containerd: Containerd, registry: Registry) -> None:
    request = api.PullImageRequest(image=api.ImageSpec(image=f"{registry.host}/none:1"))
    with Cri(containerd) as direct:
        told = []
        for images in (direct.images, cri.images):
            with pytest.raises(grpc.RpcError) as failed:
                images.PullImage(request, timeout=60)
            told.append((failed.value.code(), failed.value.details()))
    assert told[0] == told[1]
    assert told[0][0] is grpc.StatusCode.NOT_FOUND


def test_only_root_may_connect(cri: Cri, places: Places) -> None:
    assert stat.S_IMODE((places.state / "cri.sock").stat().st_mode) == 0o600


def test_containerd_restarts_behind_it(
    cri: Cri, containerd: Containerd, model: PushedModel
) -> None:
    cri.pull(model.tag, auth=SECRET)
    containerd.stop()
    with pytest.raises(grpc.RpcError) as down:
        cri.knows(model.tag)
    assert down.value.code() is grpc.StatusCode.UNAVAILABLE
    containerd.start()
    eventually(lambda: cri.knows(model.tag), "containerd answers before its CRI does")
    pull_and_read(cri, model, model.digest)
