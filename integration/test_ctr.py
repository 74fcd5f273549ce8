"""ctr, with each containerd: a model by its tag, without downloading it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from integration.harness.container import Container
from integration.harness.containerd import Containerd, Release, releases
from integration.harness.machine import CommandError, Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, suited, sums_command

Pull: TypeAlias = Callable[[str], str]


@pytest.fixture
def snapshotter(machine: Machine, places: Places, release: Release) -> Iterator[Snapshotter]:
    with Snapshotter(machine, places, additions=suited(release)) as snapshotter:
        yield snapshotter


@pytest.fixture
def containerd(
    machine: Machine, places: Places, release: Release, snapshotter: Snapshotter
) -> Iterator[Containerd]:
    """Started after the daemon, as the systemd unit has it."""
    with Containerd(machine, release, places) as containerd:
        containerd.import_rootfs()
        yield containerd


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry) -> PushedModel:
    return push_model(snapshotter, registry)


@pytest.fixture
def pull(containerd: Containerd, places: Places) -> Pull:
    hosts = ("--hosts-dir", str(places.certs))
    return lambda name: containerd.ctr("images", "pull", "--snapshotter", "modelpack", *hosts, name)


def test_a_model_is_pulled_in_kilobytes_and_read_in_full(
    containerd: Containerd, pull: Pull, snapshotter: Snapshotter, model: PushedModel
) -> None:
    pull(model.tag)
    assert snapshotter.status()["fetched_bytes"] == 0
    size = sum(path.stat().st_size for path in model.source.rglob("*"))

    target = str(containerd.machine.directory("mounted"))
    mount_image(containerd, model.tag, target)
    mount = f"type=bind,src={target},dst=/models,options=rbind:ro"
    with Container(containerd, "reader", mounts=[mount]) as container:
        listing = container.ask("find /models -type f").splitlines()
        assert len(listing) == len(model.sums)
        # Small files and heads of weights come by themselves, and nothing else does.
        assert snapshotter.status()["fetched_bytes"] < size // 20
        assert read_sums(container.ask(sums_command("/models")), "/models") == model.sums
        assert "Read-only file system" in container.ask("touch /models/x || true")
    assert snapshotter.status()["fetched_bytes"] <= size


@pytest.mark.parametrize("release", [r for r in releases() if r.version != "1.6"], ids=str)
def test_a_model_pulled_by_ctr_itself_is_the_same_as_one_pulled_by_the_transfer_service(
    containerd: Containerd, pull: Pull, places: Places, snapshotter: Snapshotter, model: PushedModel
) -> None:
    hosts = ("--hosts-dir", str(places.certs))
    before = set(containerd.ctr("content", "ls", "-q").split())
    containerd.ctr("images", "pull", "--local", "--snapshotter", "modelpack", *hosts, model.tag)
    assert snapshotter.status()["fetched_bytes"] == 0
    local = set(containerd.ctr("content", "ls", "-q").split()) - before
    target = str(containerd.machine.directory("mounted"))
    mount_image(containerd, model.tag, target)
    listed = containerd.machine.run(["sh", "-c", sums_command(target)]).stdout
    assert read_sums(listed, target) == model.sums
    containerd.machine.run(["umount", target])
    containerd.ctr("leases", "rm", target)
    containerd.ctr("images", "rm", "--sync", model.tag)
    containerd.process.wait_until(
        lambda: not local & set(containerd.ctr("content", "ls", "-q").split()),
        "the end of its contents",
    )
    pull(model.tag)
    assert set(containerd.ctr("content", "ls", "-q").split()) >= local


def mount_image(containerd: Containerd, name: str, target: str) -> None:
    """`ctr images mount`, which in 1.6 knows no snapshotter but the default one."""
    if containerd.release.version != "1.6":
        containerd.ctr("images", "mount", "--snapshotter", "modelpack", name, target)
        return
    view = f"view-{target.rpartition('/')[2]}"
    (chain,) = [
        line.split()[0]
        for line in containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls").splitlines()[1:]
    ]
    made = containerd.ctr(
        *("snapshots", "--snapshotter", "modelpack", "view", "--target", target), view, chain
    )
    containerd.machine.run(made.split())


def test_a_removed_model_is_unmounted(
    containerd: Containerd, pull: Pull, snapshotter: Snapshotter, model: PushedModel
) -> None:
    pull(model.tag)
    target = str(containerd.machine.directory("mounted"))
    mount_image(containerd, model.tag, target)
    containerd.machine.run(["umount", target])
    for line in containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls").splitlines()[1:]:
        if "Committed" not in line:
            try:
                containerd.ctr("snapshots", "--snapshotter", "modelpack", "rm", line.split()[0])
            except CommandError as error:
                # Collected meanwhile: a view that was made with 1.6 has no lease.
                if "not found" not in str(error):
                    raise
    containerd.ctr("images", "rm", "--sync", model.tag)
    containerd.process.wait_until(
        lambda: not snapshotter.status()["models"], "the end of the mount"
    )
    containerd.process.wait_until(
        lambda: (
            not containerd.ctr("snapshots", "--snapshotter", "modelpack", "ls").splitlines()[1:]
        ),
        "the end of its snapshots",
    )


def test_a_model_pinned_by_digest_cannot_be_pulled_here_and_the_error_says_what_to_run(
    containerd: Containerd, pull: Pull, model: PushedModel
) -> None:
    if containerd.release.has_image_volumes:
        # layer_types keep a pinned pull small: nothing but manifest and config comes.
        pull(model.digest)
        contents = containerd.ctr("content", "ls", "-q").split()
        assert not {f"sha256:{digest}" for digest in model.sums.values()} & set(contents)
        return
    with pytest.raises(CommandError, match="run: modelpack pull"):
        pull(model.digest)


@pytest.mark.parametrize("kind", ["tag", "digest"])
def test_the_puller_makes_a_model_known_without_the_mirror(
    containerd: Containerd, snapshotter: Snapshotter, model: PushedModel, kind: str
) -> None:
    name = getattr(model, kind)
    for _ in range(2):
        snapshotter.modelpack("pull", "--as", "stub", name)
    assert name in containerd.ctr("images", "ls", "-q").split()
    with Container(containerd, "reader") as container:
        assert container.ask("echo it runs") == "it runs"
    if containerd.release.version != "1.6":
        target = str(containerd.machine.directory("mounted"))
        mount_image(containerd, name, target)
        listed = containerd.machine.run(["sh", "-c", sums_command(target)]).stdout
        assert read_sums(listed, target) == model.sums


def test_a_container_in_a_user_namespace_reads_a_model(
    containerd: Containerd, pull: Pull, model: PushedModel
) -> None:
    """By a plain read-only bind: its files are readable for everybody, and nobody's there."""
    pull(model.tag)
    target = str(containerd.machine.directory("mounted"))
    mount_image(containerd, model.tag, target)
    mount = f"type=bind,src={target},dst=/models,options=rbind:ro:nosuid:nodev"
    containerd.machine.root.chmod(0o711)  # its root is somebody else outside
    mapping = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
    with Container(
        containerd, "mapped", snapshotter="modelpack", mounts=[mount], options=mapping
    ) as container:
        assert container.ask("cat /proc/self/uid_map").split() == ["0", "100000", "65536"]
        assert read_sums(container.ask(sums_command("/models")), "/models") == model.sums
        container.ask("echo its own > /file")
        assert container.ask("stat -c %u /file") == "0"


def test_ordinary_images_run_on_the_same_snapshotter(
    containerd: Containerd, snapshotter: Snapshotter
) -> None:
    with Container(containerd, "plain", snapshotter="modelpack") as container:
        container.ask("echo kept > /kept")
        assert container.ask("cat /kept") == "kept"


def test_what_is_in_the_registry_and_no_model_is_pulled_as_ever(
    containerd: Containerd,
    pull: Pull,
    snapshotter: Snapshotter,
    registry: Registry,
    model: PushedModel,
) -> None:
    with pytest.raises(CommandError, match="not found"):
        pull(f"{registry.host}/models/absent:1")
