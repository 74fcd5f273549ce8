"""Pods with a user namespace (``hostUsers: false``): the requests are those of kubelet.

They need a runc of 1.2 or newer. Where there is none they are not run, and what such a node
says of it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from integration.harness.containerd import Containerd, releases
from integration.harness.cri import Cri, ExecError, PodContainer
from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.pod_network import write_pod_network
from integration.harness.registry import Registry
from integration.harness.runc import maps_mounts, runcs
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, suited, sums_command
from integration.test_cri_pods import eventually, snapshots
from integration.test_doctor import examine
from integration.test_image_volume import AS_DEFAULT
from proto.cri.runtime.v1 import api_pb2 as api

ABLE = next((runc for runc in runcs() if maps_mounts(runc)), None)
UNABLE = next((runc for runc in runcs() if not maps_mounts(runc)), None)
RELEASE = releases()[0]
HOST_ID = 100_000
MAPPING = api.IDMapping(host_id=HOST_ID, container_id=0, length=65536)

pytestmark = pytest.mark.skipif(
    not RELEASE.has_image_volumes, reason="there is no containerd 2.1 here"
)
needs_able = pytest.mark.skipif(
    ABLE is None, reason="no runc here can map the IDs of mounts: put 1.2 or newer on PATH"
)
needs_unable = pytest.mark.skipif(UNABLE is None, reason="each runc here can map IDs")


@pytest.fixture
def snapshotter(machine: Machine, places: Places) -> Iterator[Snapshotter]:
    machine.root.chmod(0o711)  # root of the namespace is somebody else outside
    with Snapshotter(machine, places, additions=suited(RELEASE)) as snapshotter:
        yield snapshotter


@pytest.fixture(params=["handler", "default"])
def node(
    request: pytest.FixtureRequest, machine: Machine, places: Places, snapshotter: Snapshotter
) -> Iterator[tuple[Containerd, Cri, str]]:
    """With modelpack as the snapshotter of a runtime handler, and of every pod."""
    as_default = request.param == "default"
    network = write_pod_network(machine)
    additions = {"plugins": network["plugins"] | (AS_DEFAULT["plugins"] if as_default else {})}
    with (
        Containerd(machine, RELEASE, places, additions=additions, runc=ABLE) as containerd,
        Cri(containerd) as cri,
    ):
        yield containerd, cri, "" if as_default else "modelpack"


def assert_all_of(model: PushedModel, container: PodContainer) -> None:
    listed = container.exec("sh", "-c", sums_command("/models"))
    assert read_sums(listed, "/models") == model.sums


@needs_able
def test_a_pod_with_a_user_namespace_has_a_model_as_its_own_root_would(
    node: tuple[Containerd, Cri, str], snapshotter: Snapshotter, registry: Registry
) -> None:
    containerd, cri, handler = node
    model = push_model(snapshotter, registry)
    pulled = cri.pull(model.tag)
    with cri.pod(handler=handler, mapping=MAPPING) as pod:
        container = pod.run(volumes={"/models": pulled})
        assert container.exec("cat", "/proc/self/uid_map").split() == ["0", str(HOST_ID), "65536"]
        owners = container.exec("sh", "-c", "stat -c %u:%g /models /models/*").split()
        assert set(owners) == {"0:0"}
        with pytest.raises(ExecError, match="Read-only file system"):
            container.exec("touch", "/models/x")
        assert_all_of(model, container)
        eventually(
            lambda: snapshotter.status()["models"][0]["state"] == "verified", "all of the model"
        )
        assert_all_of(model, container)  # now by the kernel itself, where it can
        with cri.pod("plain", handler=handler) as plain:
            assert_all_of(model, plain.run(volumes={"/models": pulled}))
    eventually(lambda: snapshotter.status()["models"] == [], "the model is unmounted")
    assert not [mount for mount in containerd.machine.mounts() if "image-volumes" in mount]


@needs_able
def test_the_image_of_such_a_pod_is_mapped_and_not_copied(
    node: tuple[Containerd, Cri, str],
) -> None:
    containerd, cri, handler = node
    with cri.pod(handler=handler, mapping=MAPPING) as pod:
        before = snapshots(containerd, "Committed")
        container = pod.run()
        assert container.exec("stat", "-c", "%u:%g", "/bin/sleep") == "0:0\n"
        container.exec("sh", "-c", "echo its own > /file; rm /bin/find")
        assert container.exec("stat", "-c", "%u:%g", "/file") == "0:0\n"
        # A chowned copy would be one more, for these IDs alone.
        assert snapshots(containerd, "Committed") == before
        assert len(before) == 1


@needs_able
def test_such_a_pod_reads_on_when_the_daemon_is_another(
    node: tuple[Containerd, Cri, str], snapshotter: Snapshotter, registry: Registry
) -> None:
    containerd, cri, handler = node
    model = push_model(snapshotter, registry)
    pulled = cri.pull(model.tag)
    with cri.pod(handler=handler, mapping=MAPPING) as pod:
        first = pod.run("first", volumes={"/models": pulled})
        snapshotter.process.kill()
        snapshotter.start()
        containerd.wait_for_snapshotter()
        assert_all_of(model, first)
        with cri.pod("second", handler=handler, mapping=MAPPING) as other:
            second = other.run(volumes={"/models": pulled})
            assert second.exec("stat", "-c", "%u:%g", "/models/config.json") == "0:0\n"
            assert_all_of(model, second)


@needs_able
def test_doctor_finds_nothing_wrong_with_it(
    node: tuple[Containerd, Cri, str], snapshotter: Snapshotter
) -> None:
    _, findings = examine(snapshotter)
    found = {finding["name"]: finding["level"] for finding in findings}
    assert found["user-namespaces"] == "ok"
    assert "remap-ids" not in found


@needs_unable
def test_where_runc_cannot_the_pod_fails_and_doctor_says_what_to_install(
    machine: Machine, places: Places, snapshotter: Snapshotter, registry: Registry
) -> None:
    model = push_model(snapshotter, registry)
    additions = write_pod_network(machine)
    with (
        Containerd(machine, RELEASE, places, additions=additions, runc=UNABLE) as containerd,
        Cri(containerd) as cri,
        cri.pod(handler="modelpack", mapping=MAPPING) as pod,
    ):
        pulled = cri.pull(model.tag)
        with pytest.raises(grpc.RpcError, match="idmap mounts not supported"):
            pod.run(volumes={"/models": pulled})
        _, findings = examine(snapshotter)
        (found,) = [finding for finding in findings if finding["name"] == "user-namespaces"]
        assert found["level"] == "warning"
        assert "runc 1.2" in found["changes"][0]["text"]
