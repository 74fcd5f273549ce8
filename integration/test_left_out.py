"""Files that are left out: by who pulls, by the node's settings, and whatever becomes of those."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from integration.harness.configuration import render
from integration.harness.container import Container
from integration.harness.containerd import Containerd, releases
from integration.harness.cri import Cri, PulledImage
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, suited, sums_command
from integration.test_cri_pods import eventually

INODES = "cd /models && ls -i . | sort -k 2"
"""Of a mount: the nodeids."""


@pytest.fixture
def containerd(newest_containerd: Containerd) -> Containerd:
    newest_containerd.import_rootfs()
    return newest_containerd


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry, containerd: Containerd) -> PushedModel:
    return push_model(snapshotter, registry)


def without(model: PushedModel, *ends: str) -> dict[str, str]:
    return {name: sha for name, sha in model.sums.items() if not name.endswith(ends)}


def show(containerd: Containerd, machine: Machine, name: str, place: str) -> str:
    """Mount the image; what `ctr run` is told of it."""
    target = str(machine.directory(place))
    containerd.ctr("images", "mount", "--snapshotter", "modelpack", name, target)
    return f"type=bind,src={target},dst=/models,options=rbind:ro"


def restart(snapshotter: Snapshotter, containerd: Containerd, exclude: Sequence[str]) -> None:
    """SIGKILL, and then another daemon with other settings."""
    snapshotter.process.kill()
    changed: list[dict[str, Any]] = [
        {"keeper": {"cgroup": f"{snapshotter.machine.cgroup}/keeper"}},
        {"mounts": {"exclude": list(exclude)}},
    ]
    snapshotter.configuration.write_text(
        render("modelpack-snapshotter.toml", snapshotter.places, changed)
    )
    snapshotter.start()
    containerd.wait_for_snapshotter()


def test_a_pull_leaves_out_and_the_next_one_shows_everything(
    machine: Machine, containerd: Containerd, snapshotter: Snapshotter, model: PushedModel
) -> None:
    pull = ("pull", "--exclude", "*-of-*.safetensors", "--exclude-category", "doc", model.tag)
    told = snapshotter.modelpack(*pull)
    assert "as a stub image" in told
    assert "exclude '*-of-*.safetensors'; exclude category doc" in told
    stub = containerd.ctr("images", "ls", f"name=={model.tag}").split("sha256:")[1][:64]
    assert snapshotter.modelpack(*pull).count(stub) == 1  # the same stub, however often
    mount = show(containerd, machine, model.tag, "part")
    with Container(containerd, "part", mounts=[mount]) as container:
        found = read_sums(container.ask(sums_command("/models")), "/models")
        assert found == without(model, ".safetensors", ".md")
    (shown,) = snapshotter.status()["models"]
    assert (shown["present_bytes"], shown["left_out"]) == (shown["size_bytes"], 5)
    assert snapshotter.status()["fetched_bytes"] < 1 << 20
    assert "left out" in snapshotter.modelpack("status")

    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    mount = show(containerd, machine, model.tag, "everything")
    with Container(containerd, "everything", mounts=[mount]) as container:
        assert read_sums(container.ask(sums_command("/models")), "/models") == model.sums


def test_who_needs_the_models_own_manifest_is_told_what_to_do_instead(
    snapshotter: Snapshotter, model: PushedModel
) -> None:
    for arguments in (("--as", "direct", model.tag), ("--docker", model.digest)):
        with pytest.raises(
            CommandError, match=r"left out of a stub image only.*exclude in \[mount"
        ):
            snapshotter.modelpack("pull", "--exclude", "*.md", *arguments)
    with pytest.raises(CommandError, match=r"every file of model .* is left out"):
        snapshotter.modelpack("pull", "--exclude", "*", model.tag)
    with pytest.raises(CommandError, match=r"pattern '\[' cannot be used"):
        snapshotter.modelpack("pull", "--exclude", "[", model.tag)


def test_settings_that_change_change_no_mount_that_is_there(
    machine: Machine, containerd: Containerd, snapshotter: Snapshotter, model: PushedModel
) -> None:
    restart(snapshotter, containerd, ["README.md"])
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    mount = show(containerd, machine, model.tag, "before")
    with Container(containerd, "before", mounts=[mount]) as before:
        assert read_sums(before.ask(sums_command("/models")), "/models") == without(model, ".md")
        inodes = before.ask(INODES)
        for exclude in (["*.json"], [], ["model-0000[12]-*"]):
            restart(snapshotter, containerd, exclude)
            assert before.ask(INODES) == inodes
            found = read_sums(before.ask(sums_command("/models")), "/models")
            assert found == without(model, ".md")
        # Who mounts it from now on gets what is set now.
        mount = show(containerd, machine, model.tag, "after")
        with Container(containerd, "after", mounts=[mount]) as after:
            found = read_sums(after.ask(sums_command("/models")), "/models")
            gone = [name for name in model.sums if name.startswith(("model-00001", "model-00002"))]
            assert len(gone) == 2
            assert found == without(model, *gone)
        assert before.ask(INODES) == inodes
    assert len(snapshotter.status()["models"]) == 2
    for place in ("before", "after"):
        containerd.ctr("images", "unmount", "--rm", str(machine.directory(place)))
    containerd.ctr("images", "rm", "--sync", model.tag)
    containerd.process.wait_until(
        lambda: not snapshotter.status()["models"], "the end of both mounts"
    )


def test_a_node_that_leaves_out_everything_of_a_model_says_so_and_mounts_nothing(
    machine: Machine, containerd: Containerd, snapshotter: Snapshotter, model: PushedModel
) -> None:
    restart(snapshotter, containerd, ["*"])
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    with pytest.raises(CommandError, match=r"every file of model .* is left out \(exclude '\*'\)"):
        show(containerd, machine, model.tag, "nothing")
    assert snapshotter.status()["models"] == []


def test_pods_are_shown_what_the_node_leaves_in_and_a_pulled_stub_less(
    machine: Machine, places: Places, registry: Registry
) -> None:
    release = next(release for release in releases() if release.has_image_volumes)
    additions = {"mounts": {"exclude": ["README.md"]}}
    with (
        Snapshotter(machine, places, additions=suited(release) | additions) as snapshotter,
        Containerd(machine, release, places) as containerd,
        Cri(containerd) as client,
    ):
        model = push_model(snapshotter, registry)
        pulled = client.pull(model.tag)
        with client.pod(handler="modelpack") as pod:
            container = pod.run(volumes={"/models": pulled})
            found = read_sums(container.exec("sh", "-c", sums_command("/models")), "/models")
            assert found == without(model, ".md")
        snapshotter.modelpack("pull", "-n", "k8s.io", "--exclude", "*.safetensors", model.tag)
        eventually(lambda: client.knows(model.tag), "the stub is known to CRI")
        with client.pod(handler="modelpack") as pod:
            container = pod.run(volumes={"/models": PulledImage(model.tag, model.tag)})
            found = read_sums(container.exec("sh", "-c", sums_command("/models")), "/models")
            assert found == without(model, ".md", ".safetensors")
