"""`modelpack doctor` on real nodes: nothing wrong is found in a good one, and what it says
of a broken one mends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
import tomlkit

from integration.harness.configuration import write_hosts
from integration.harness.containerd import Containerd, Release, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.processes import accepts
from integration.harness.registry import Registry
from integration.harness.runc import maps_mounts, runcs
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import push_model, suited
from integration.test_cri_pods import eventually
from proto.cri.runtime.v1 import api_pb2 as api
from proto.cri.runtime.v1.api_pb2_grpc import RuntimeServiceStub

NEWEST = releases()[0]
IMAGES = "io.containerd.cri.v1.images"
TRANSFER = "io.containerd.transfer.v1.local"
Finding = dict[str, Any]


def examine(snapshotter: Snapshotter, *arguments: str) -> tuple[int, list[Finding]]:
    """Exit status and findings."""
    if accepts(snapshotter.places.containerd):
        wait_for_cri(snapshotter.places.containerd)
    argv = [str(PROGRAMS / "modelpack"), "--config", str(snapshotter.configuration)]
    done = snapshotter.machine.run(
        [*argv, "doctor", "--json", *arguments], environment=snapshotter.environment, check=False
    )
    findings: list[Finding] = json.loads(done.stdout)["findings"]
    return done.returncode, findings


def wait_for_cri(address: Path) -> None:
    """containerd answers before its CRI does, which doctor asks how it runs."""
    with grpc.insecure_channel(f"unix:{address}") as channel:
        runtime = RuntimeServiceStub(channel)
        eventually(
            lambda: runtime.Status(api.StatusRequest(), timeout=30).HasField("status"),
            "CRI is up",
        )


def of_level(findings: list[Finding], *levels: str) -> set[str]:
    return {finding["name"] for finding in findings if finding["level"] in levels}


def apply(containerd: Containerd, findings: list[Finding]) -> None:
    """Do what the errors' findings say of containerd's configuration, as a person would."""
    file = str(containerd.configuration)
    document: dict[str, Any] = tomlkit.parse(containerd.configuration.read_text())
    for finding in findings:
        if finding["level"] == "error":
            for change in finding["changes"]:
                if change["where"] == file:
                    merge(document, tomlkit.parse(change["text"]).unwrap())
    containerd.configuration.write_text(tomlkit.dumps(document))
    containerd.stop()
    containerd.start()


def merge(table: Any, additions: Mapping[str, Any]) -> None:
    for key, value in additions.items():
        if isinstance(value, Mapping):
            merge(table.setdefault(key, {}), value)
        else:
            table[key] = value


@pytest.fixture
def hosts(places: Places) -> None:
    write_hosts(places, "registry.example.com", "https")


def test_nothing_is_wrong_with_the_sample_configuration(
    machine: Machine, places: Places, release: Release, hosts: None
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(release)) as snapshotter,
        Containerd(machine, release, places),
    ):
        status, findings = examine(snapshotter)
        assert not of_level(findings, "error", "unknown"), findings
        assert status == 0
        # Only pods of the modelpack handler mount models; 1.6 and 1.7 have no image volumes.
        known = {"pods"} if release.has_image_volumes else {"pods", "containerd-version"}
        if release.has_image_volumes and not maps_mounts(next(runcs())):
            known.add("user-namespaces")
        ours = {"daemon", "containerd", "mount namespaces", "registries", "images"}
        assert of_level([f for f in findings if f["part"] in ours], "warning") == known
        assert "runs-as-configured" in of_level(findings, "ok")
        assert "mounts-visible" in of_level(findings, "ok")


def broken(**images: object) -> dict[str, Any]:
    return {"plugins": {IMAGES: images}}


PARTIAL = [
    {
        "platform": "linux/amd64",
        "snapshotter": name,
        "differ": "walking",
        "layer_types": ["application/vnd.cncf.model.weight.v1.raw"],
    }
    for name in ("modelpack", "overlayfs")
]


@pytest.mark.parametrize(
    ("broken", "name"),
    [
        (broken(use_local_image_pull=True), "client-path"),
        (broken(disable_snapshot_annotations=False), "client-path"),
        (broken(max_concurrent_downloads=4), "client-path"),
        (broken(image_pull_with_sync_fs=True), "client-path"),
        ({"plugins": {TRANSFER: {"unpack_config": PARTIAL}}}, "layer-types"),
        ({"plugins": {TRANSFER: {"unpack_config": PARTIAL[1:]}}}, "unpack-config"),
        (
            {"proxy_plugins": {"modelpack": {"address": "/var/tmp/modelpack-elsewhere.sock"}}},
            "proxy-plugin",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_doctor_says_of_a_broken_configuration_mends_it(
    machine: Machine, places: Places, hosts: None, broken: dict[str, Any], name: str
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter,
        Containerd(machine, NEWEST, places, additions=broken) as containerd,
    ):
        status, findings = examine(snapshotter)
        assert status == 1
        assert name in of_level(findings, "error")
        apply(containerd, findings)
        status, findings = examine(snapshotter)
        assert status == 0, findings


def test_a_node_without_any_configuration_is_mended_by_what_doctor_says(
    machine: Machine, places: Places, release: Release, hosts: None
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(release)) as snapshotter,
        Containerd(machine, release, places) as containerd,
    ):
        document: dict[str, Any] = tomlkit.parse(containerd.configuration.read_text()).unwrap()
        document.pop("proxy_plugins")
        plugins = document["plugins"]
        plugins.pop(TRANSFER, None)
        for cri in ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"):
            plugins.get(cri, {}).pop("containerd", None)
        plugins.get("io.containerd.grpc.v1.cri", {}).pop("registry", None)
        containerd.configuration.write_text(tomlkit.dumps(document))
        containerd.stop()
        containerd.start()
        status, findings = examine(snapshotter)
        assert status == 1
        assert "proxy-plugin" in of_level(findings, "error")
        expected = {"pods", "unpack-config"} if release.has_image_volumes else {"config-path"}
        assert expected <= of_level(findings, "error")
        apply(containerd, findings)
        # Our place of hosts.toml files stands for the one that the lines name.
        text = containerd.configuration.read_text()
        text = text.replace("/etc/containerd/certs.d", str(places.certs))
        containerd.configuration.write_text(text)
        containerd.stop()
        containerd.start()
        status, findings = examine(snapshotter)
        assert status == 0, findings


def test_a_configuration_that_containerd_has_not_read_yet_is_found(
    machine: Machine, places: Places, release: Release, hosts: None
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(release)) as snapshotter,
        Containerd(machine, release, places) as containerd,
    ):
        text = containerd.configuration.read_text()
        document = tomlkit.parse(text).unwrap()
        cri = next(
            name
            for name in document["plugins"]
            if name.startswith("io.containerd.") and "containerd" in document["plugins"][name]
        )
        runtimes = document["plugins"][cri]["containerd"]["runtimes"]
        runtimes["another"] = {"runtime_type": "io.containerd.runc.v2"}
        containerd.configuration.write_text(tomlkit.dumps(document))
        status, findings = examine(snapshotter)
        assert status == 1
        assert of_level(findings, "error") == {"runs-as-configured"}
        containerd.stop()
        containerd.start()
        assert examine(snapshotter)[0] == 0


def test_a_daemon_that_does_not_run_is_found(machine: Machine, places: Places, hosts: None) -> None:
    with (
        Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter,
        Containerd(machine, NEWEST, places),
    ):
        snapshotter.stop()
        status, findings = examine(snapshotter)
        assert status == 1
        assert of_level(findings, "error") == {"daemon-runs", "mirror"}
        snapshotter.start()
        assert examine(snapshotter)[0] == 0


def test_a_socket_that_others_may_open_is_found(
    machine: Machine, places: Places, hosts: None
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter,
        Containerd(machine, NEWEST, places),
    ):
        socket = places.state / "snapshotter.sock"
        socket.chmod(0o666)
        _, findings = examine(snapshotter)
        (found,) = [f for f in findings if f["level"] == "error"]
        (change,) = found["changes"]
        machine.run(["sh", "-c", change["text"]])
        assert examine(snapshotter)[0] == 0


def test_a_model_that_containerd_downloaded_as_a_whole_is_found_and_mended(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter,
        Containerd(
            machine, NEWEST, places, additions=broken(use_local_image_pull=True)
        ) as containerd,
    ):
        model = push_model(snapshotter, registry)
        # By digest, and past the mirror: what a client without our configuration does.
        containerd.ctr(
            "images", "pull", "--local", "--plain-http", model.digest, namespace="k8s.io"
        )
        _, findings = examine(snapshotter)
        (found,) = [f for f in findings if f["name"] == "downloaded"]
        assert found["level"] == "error"
        assert model.digest in found["what"]
        apply(containerd, findings)
        _, findings = examine(snapshotter)
        (found,) = [f for f in findings if f["name"] == "downloaded"]
        assert found["level"] == "warning"
        removing, pulling = found["changes"][0]["text"].splitlines()
        containerd.ctr(*removing.split()[3:], namespace="k8s.io")
        snapshotter.modelpack(*pulling.split()[1:])
        _, findings = examine(snapshotter)
        (found,) = [f for f in findings if f["name"] == "downloaded"]
        assert found["level"] == "ok"


def test_a_registry_is_asked_for_the_model_and_for_a_range_of_it(
    snapshotter: Snapshotter, registry: Registry
) -> None:
    model = push_model(snapshotter, registry)
    _, findings = examine(snapshotter, model.tag)
    asked = [f for f in findings if f["part"] == "registry"]
    assert of_level(asked, "ok") == {"registry-reached", "registry-model", "ranges"}
    registry.stop()
    status, findings = examine(snapshotter, registry.host)
    assert status == 1
    assert "registry-reached" in of_level(findings, "error")
    registry.start()


def test_mounts_that_containerd_does_not_see_are_found(
    machine: Machine, places: Places, hosts: None, registry: Registry
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter,
        Containerd(machine, NEWEST, places) as containerd,
    ):
        containerd.stop()
        # As under PrivateMounts=yes.
        argv = ["unshare", "--mount", "--propagation", "private"]
        argv += [str(NEWEST.programs / "containerd"), "--config", str(containerd.configuration)]
        apart = machine.start(argv, log="apart.log", environment=containerd.environment)
        apart.wait_until(containerd._answers, "an answer on its socket")
        status, findings = examine(snapshotter)
        assert status == 1
        assert of_level(findings, "error") == {"mounts-visible"}
        # Nor is one mounted as an empty directory meanwhile.
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "stub", model.tag)
        target = str(machine.directory("mounted"))
        with pytest.raises(CommandError, match="does not see the model"):
            containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
        listed = containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls")
        assert "View" not in listed
        apart.stop()
