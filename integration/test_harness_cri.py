"""Pods and image volumes work here before the daemon comes into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from integration.harness.configuration import write_hosts
from integration.harness.containerd import Containerd
from integration.harness.cri import NAMESPACE, Cri, ExecError
from integration.harness.images import FileLayer, Image
from integration.harness.places import Places
from integration.harness.registry import Registry


@pytest.fixture
def cri(containerd: Containerd) -> Iterator[Cri]:
    with Cri(containerd) as cri:
        yield cri


def test_a_pod_runs_a_container(cri: Cri) -> None:
    with cri.pod() as pod:
        container = pod.run()
        assert container.exec("echo", "hello") == "hello\n"


def test_a_command_that_fails_in_a_pod_is_an_error(cri: Cri) -> None:
    with cri.pod() as pod:
        container = pod.run()
        with pytest.raises(ExecError, match="No such file"):
            container.exec("cat", "/nowhere")


def test_a_removed_pod_leaves_no_task(cri: Cri, containerd: Containerd) -> None:
    with cri.pod() as pod:
        pod.run()
    assert len(containerd.ctr("tasks", "ls", namespace=NAMESPACE).splitlines()) == 1


def test_an_ordinary_image_is_a_volume_from_containerd_2_1_on(
    cri: Cri, containerd: Containerd, registry: Registry, places: Places, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"\x07" * 1000)
    Image.of([FileLayer("weights", tmp_path / "weights")]).push(registry.host, "plain", "1")
    write_hosts(places, registry.host)

    pulled = cri.pull(f"{registry.host}/plain:1")
    with cri.pod() as pod:
        if containerd.release.has_image_volumes:
            container = pod.run(volumes={"/models": pulled})
            assert container.exec("ls", "/models") == "weights\n"
        else:
            # Older ones do not know the field, and see a mount without a source.
            with pytest.raises(grpc.RpcError, match='failed to mkdir ""'):
                pod.run(volumes={"/models": pulled})
