"""A model is never an empty directory: each way there that this project has a say in.

Of the others `modelpack doctor` speaks: a pod of another handler (``pods``), pulls past
``layer_types`` (``layer-types``, ``client-path``), mounts that containerd does not see
(``mounts-visible``), models that were downloaded before (``downloaded``).
"""

from __future__ import annotations

from typing import Any

import pytest

from integration.harness.containerd import Containerd, Release, releases
from integration.harness.cri import Cri
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import push_model, read_sums, suited, sums_command
from integration.test_doctor import IMAGES, TRANSFER, examine, of_level

NEWEST = releases()[0]
WITH_MOUNTS = [release for release in releases() if release.version != "1.6"]


@pytest.mark.parametrize("release", WITH_MOUNTS, ids=str)
def test_a_mount_of_a_model_that_has_no_layers_is_refused_with_what_to_do(
    machine: Machine, places: Places, release: Release, registry: Registry
) -> None:
    """containerd asks for a view of nothing then, and says not of what."""
    with (
        Snapshotter(machine, places, additions=suited(release)) as snapshotter,
        Containerd(machine, release, places) as containerd,
    ):
        model = push_model(snapshotter, registry)
        snapshotter.modelpack("pull", "--as", "direct", model.tag)
        target = machine.directory("mounted")
        for more in ([], ["--rw"]):
            mount = ["images", "mount", "--snapshotter", "modelpack", *more]
            with pytest.raises(CommandError, match=r"no layer to show.*modelpack pull"):
                containerd.ctr(*mount, model.tag, str(target))
        assert str(target) not in machine.mounts()
        listed = containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls")
        assert listed.splitlines()[1:] == []


def without_layer_types() -> dict[str, Any]:
    entries = [
        {"platform": "linux/amd64", "snapshotter": name, "differ": "walking"}
        for name in ("modelpack", "overlayfs")
    ]
    return {TRANSFER: {"unpack_config": entries}}


@pytest.mark.skipif(not NEWEST.has_image_volumes, reason="there is no containerd 2.1 here")
@pytest.mark.parametrize(
    ("plugins", "finding"),
    [
        ({IMAGES: {"use_local_image_pull": True}}, "client-path"),
        ({IMAGES: {"max_concurrent_downloads": 10}}, "client-path"),
        (without_layer_types(), "layer-types"),
    ],
    ids=["local", "downloads", "no-layer-types"],
)
def test_a_model_that_was_downloaded_as_a_whole_is_shown_all_the_same(
    machine: Machine,
    places: Places,
    registry: Registry,
    plugins: dict[str, Any],
    finding: str,
) -> None:
    images = {"snapshotter": "modelpack", **plugins.get(IMAGES, {})}
    additions = {"plugins": {**plugins, IMAGES: images}}
    with (
        Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter,
        Containerd(machine, NEWEST, places, additions=additions) as containerd,
        Cri(containerd) as cri,
    ):
        status, findings = examine(snapshotter)
        assert (status, of_level(findings, "error") >= {finding}) == (1, True)
        model = push_model(snapshotter, registry)
        pulled = cri.pull(model.tag)
        weights = {f"sha256:{sum}" for name, sum in model.sums.items() if "safetensors" in name}
        contents = containerd.ctr("content", "ls", "-q", namespace="k8s.io").split()
        assert weights & set(contents)  # it did happen
        with cri.pod() as pod:
            container = pod.run(volumes={"/models": pulled})
            listed = container.exec("sh", "-c", sums_command("/models"))
        assert read_sums(listed, "/models") == model.sums
