"""Docker on the daemon's snapshotter: models, and everything else it does all day."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from integration.harness.containerd import Containerd
from integration.harness.docker import NAMESPACE, Docker
from integration.harness.etc import own_etc
from integration.harness.machine import CommandError, Machine
from integration.harness.model import write_model
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.rootfs import ROOTFS_IMAGE, write_rootfs
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command
from integration.test_doctor import examine

SUMS = sums_command("/models")


@pytest.fixture
def docker(
    machine: Machine,
    places: Places,
    newest_containerd: Containerd,
    snapshotter: Snapshotter,
    registry: Registry,
) -> Iterator[Docker]:
    """Configured by what `modelpack config docker` prints, and nothing else."""
    own_etc(machine, places)
    daemon = configured(snapshotter, places, registry.host)
    with Docker(newest_containerd, daemon) as docker:
        load_rootfs(docker)
        yield docker


@pytest.fixture
def model(snapshotter: Snapshotter, registry: Registry) -> PushedModel:
    return push_model(snapshotter, registry)


def configured(snapshotter: Snapshotter, places: Places, registry: str) -> Mapping[str, Any]:
    """daemon.json of `modelpack config docker`, whose hosts.toml is put into its place."""
    files = json.loads(snapshotter.modelpack("config", "docker", "--registry", registry, "--json"))
    printed = {file["path"]: file["text"] for file in files}
    directory = places.docker_certs / registry
    directory.mkdir()
    hosts = printed[f"/etc/docker/certs.d/{registry}/hosts.toml"]
    (directory / "hosts.toml").write_text(
        hosts.replace(f"https://{registry}", f"http://{registry}")
    )
    daemon: Mapping[str, Any] = json.loads(printed["/etc/docker/daemon.json"])
    return daemon


def load_rootfs(docker: Docker) -> None:
    archive = docker.containerd.machine.root / "rootfs.tar"
    write_rootfs(archive)
    docker("load", "-i", str(archive))


def run(docker: Docker, source: str, command: str, *, subpath: str = "") -> str:
    """What a container with the image ``source`` as /models prints."""
    return docker("run", "--rm", *mounting(source, subpath), ROOTFS_IMAGE, "sh", "-c", command)


def mounting(source: str, subpath: str = "") -> tuple[str, ...]:
    extra = f",image-subpath={subpath}" if subpath else ""
    return ("--mount", f"type=image,source={source},target=/models{extra}")


def start(docker: Docker, name: str, source: str) -> None:
    """A container that sleeps, with the image ``source`` as /models."""
    docker("run", "-d", "--name", name, *mounting(source), ROOTFS_IMAGE, "sleep", "infinity")


def snapshots(docker: Docker) -> list[str]:
    """Names of all snapshots that Docker has."""
    listed = docker.containerd.ctr(
        "snapshots", "--snapshotter", "modelpack", "ls", namespace=NAMESPACE
    )
    return [line.split()[0] for line in listed.splitlines()[1:] if line.strip()]


def test_a_model_is_pulled_by_tag_in_kilobytes_and_read_in_full(
    docker: Docker, snapshotter: Snapshotter, model: PushedModel
) -> None:
    docker("pull", model.tag)
    assert snapshotter.status()["fetched_bytes"] == 0
    size = sum(path.stat().st_size for path in model.source.rglob("*"))

    start(docker, "reader", model.tag)
    listed = docker("exec", "reader", "find", "/models", "-type", "f").splitlines()
    assert len(listed) == len(model.sums)
    # Small files and heads of weights come by themselves, and nothing else does.
    assert snapshotter.status()["fetched_bytes"] < size // 20
    assert read_sums(docker("exec", "reader", "sh", "-c", SUMS), "/models") == model.sums
    assert snapshotter.status()["fetched_bytes"] <= size
    with pytest.raises(CommandError, match="Read-only file system"):
        docker("exec", "reader", "touch", "/models/x")


@pytest.mark.parametrize("tar", [False, True], ids=["raw", "tar"])
def test_a_part_of_a_model_is_mounted_alone(
    docker: Docker, snapshotter: Snapshotter, registry: Registry, tar: bool
) -> None:
    source = snapshotter.machine.root / "model"
    write_model(source, 1 << 20)
    (source / "tokenizer").mkdir()
    (source / "tokenizer" / "tokenizer.json").write_text('{"version": "1.0"}')
    model = push_model(snapshotter, registry, tar=tar)
    docker("pull", model.tag)
    snapshotter.modelpack("pull", "--docker", model.digest)
    for reference in (model.tag, model.digest):
        assert run(docker, reference, "ls /models", subpath="tokenizer") == "tokenizer.json"
    with pytest.raises(CommandError, match="no such file"):
        run(docker, model.digest, "ls /models", subpath="absent")


def test_a_pinned_model_is_refused_by_docker_pull_and_made_known_by_the_puller(
    docker: Docker, snapshotter: Snapshotter, model: PushedModel
) -> None:
    with pytest.raises(CommandError, match="with --docker for Docker, run: modelpack pull"):
        docker("pull", model.digest)
    for _ in range(2):
        snapshotter.modelpack("pull", "--docker", model.digest)
    assert snapshotter.status()["fetched_bytes"] == 0
    assert read_sums(run(docker, model.digest, SUMS), "/models") == model.sums
    # As long as it is known, by its digest alone too.
    assert run(docker, model.digest.rpartition("@")[2], "cat /models/config.json")
    docker("rmi", model.digest)
    docker.process.wait_until(lambda: not snapshotter.status()["models"], "the end of the mount")


def test_docker_shows_saves_and_loads_the_stub_as_any_image(
    docker: Docker, machine: Machine, model: PushedModel
) -> None:
    docker("pull", model.tag)
    (inspected,) = json.loads(docker("image", "inspect", model.tag))
    assert inspected["RepoTags"] == [model.tag]
    assert inspected["Config"]["Labels"]["modelpack.ref"] == model.digest
    archive = str(machine.root / "stub.tar")
    docker("save", "-o", archive, model.tag)
    docker("rmi", model.tag)
    assert model.tag not in docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    docker("load", "-i", archive)
    assert read_sums(run(docker, model.tag, SUMS), "/models") == model.sums


def test_two_containers_share_the_bytes_of_one_model(
    docker: Docker, snapshotter: Snapshotter, model: PushedModel
) -> None:
    docker("pull", model.tag)
    snapshotter.modelpack("pull", "--docker", model.digest)
    for name, source in (("first", model.tag), ("second", model.digest)):
        start(docker, name, source)
        assert read_sums(docker("exec", name, "sh", "-c", SUMS), "/models") == model.sums
    (mounted,) = snapshotter.status()["models"]
    assert snapshotter.status()["fetched_bytes"] <= mounted["size_bytes"]


def test_a_model_that_is_removed_while_in_use_reads_on_and_is_unmounted_with_its_container(
    docker: Docker, snapshotter: Snapshotter, model: PushedModel
) -> None:
    docker("pull", model.tag)
    start(docker, "reader", model.tag)
    with pytest.raises(CommandError, match="conflict"):
        docker("rmi", model.tag)
    docker("rmi", "-f", model.tag)
    docker("system", "prune", "-af")
    assert read_sums(docker("exec", "reader", "sh", "-c", SUMS), "/models") == model.sums
    docker("rm", "-f", "reader")
    docker("system", "prune", "-af")
    docker.process.wait_until(lambda: not snapshotter.status()["models"], "the end of the mount")


def test_ordinary_images_are_built_run_committed_pushed_and_pruned(
    docker: Docker, machine: Machine, registry: Registry
) -> None:
    context = machine.directory("context")
    (context / "Dockerfile").write_text(
        f"FROM {ROOTFS_IMAGE}\n"
        "RUN --network=none echo built > /built && rm /bin/vi\n"
        "COPY Dockerfile /copied\n"
    )
    docker("build", "-t", "built:1", str(context))
    assert docker("run", "--rm", "built:1", "cat", "/built") == "built"
    with pytest.raises(CommandError, match="No such file"):
        docker("run", "--rm", "built:1", "ls", "/bin/vi")

    docker("run", "--name", "made", "built:1", "sh", "-c", "echo more > /more; mv /built /moved")
    assert set(docker("diff", "made").splitlines()) == {"A /more", "A /moved", "D /built"}
    committed = f"{registry.host}/made:1"
    docker("commit", "made", committed)
    docker("push", committed)
    docker("rm", "made")
    docker("rmi", committed)
    docker("pull", committed)
    look = "cat /more /moved; ls /built || true"
    assert docker("run", "--rm", committed, "sh", "-c", look) == "more\nbuilt"

    docker("rmi", "built:1")
    docker("system", "prune", "-af")
    assert docker("image", "ls", "-q") == ""
    docker.process.wait_until(lambda: not snapshots(docker), "the end of all snapshots")


def test_what_containers_wrote_outlives_a_restart_of_docker(docker: Docker) -> None:
    docker("run", "-d", "--name", "kept", ROOTFS_IMAGE, "sleep", "infinity")
    docker("exec", "kept", "sh", "-c", "echo here > /kept")
    docker.stop()
    docker.start()
    docker("start", "kept")
    assert docker("exec", "kept", "cat", "/kept") == "here"


def test_models_are_mounted_as_before_after_a_restart_of_docker(
    docker: Docker, snapshotter: Snapshotter, model: PushedModel
) -> None:
    docker("pull", model.tag)
    snapshotter.modelpack("pull", "--docker", model.digest)
    docker.stop()
    docker.start()
    for reference in (model.tag, model.digest):
        assert read_sums(run(docker, reference, SUMS), "/models") == model.sums


@pytest.mark.parametrize("by", ["tag", "digest"])
def test_a_model_that_docker_downloaded_as_a_whole_is_shown_all_the_same(
    docker: Docker, places: Places, registry: Registry, model: PushedModel, by: str
) -> None:
    shutil.rmtree(places.docker_certs / registry.host)  # nobody names the mirror
    name = getattr(model, by)
    docker("pull", name)
    assert read_sums(run(docker, name, SUMS), "/models") == model.sums


def test_a_model_that_cannot_be_served_ends_in_an_error_of_docker(
    docker: Docker, snapshotter: Snapshotter, registry: Registry, model: PushedModel
) -> None:
    docker("pull", model.tag)
    snapshotter.modelpack("pull", "--docker", model.digest)
    registry.stop()
    for reference in (model.tag, model.digest):
        with pytest.raises(CommandError, match="connection refused"):
            run(docker, reference, "ls /models")
    registry.start()
    image = model.digest.rpartition(":")[2][:12]
    with pytest.raises(CommandError, match=f"{image}: the image has no layer to show.*--docker"):
        run(docker, image, "ls /models")  # what Docker gives on says no more than that


def test_a_container_cannot_be_made_of_a_model_that_has_no_layers(
    docker: Docker, snapshotter: Snapshotter, model: PushedModel
) -> None:
    snapshotter.modelpack("pull", "--docker", model.digest)
    with pytest.raises(CommandError, match="/x: no such file or directory"):
        docker("run", "--rm", model.digest, "/x")


def test_without_this_snapshotter_a_stub_explains_itself(
    machine: Machine, places: Places, newest_containerd: Containerd, registry: Registry,
    snapshotter: Snapshotter, model: PushedModel,
) -> None:  # fmt: skip
    own_etc(machine, places)
    daemon = {**configured(snapshotter, places, registry.host), "storage-driver": "overlayfs"}
    with Docker(newest_containerd, daemon) as docker:
        load_rootfs(docker)
        docker("pull", model.tag)
        shown = run(docker, model.tag, "find /models -type f -exec cat {} +")
    assert model.digest.rpartition("@")[2] in shown
    assert "The snapshotter 'modelpack' shows the model's files here" in shown


def test_doctor_finds_containers_whose_model_was_lost_in_a_restart_of_docker(
    docker: Docker, snapshotter: Snapshotter, model: PushedModel
) -> None:
    def lost() -> list[dict[str, Any]]:
        _, findings = examine(snapshotter)
        return [f for f in findings if f["part"] == "docker" and f["level"] == "error"]

    docker("pull", model.tag)
    start(docker, "reader", model.tag)
    docker("stop", "-t", "0", "reader")
    docker("start", "reader")
    assert docker("exec", "reader", "ls", "/models")
    assert lost() == []
    docker.stop()
    # dockerd takes them away itself only where it had to bind its own directory to be shared.
    left = [m for m in snapshotter.machine.mounts() if "/docker/root/rootfs/" in m]
    snapshotter.machine.run(["sh", "-c", 'umount "$@" || :', "sh", *left[::-1]])
    docker.start()
    docker("start", "reader")
    assert docker("exec", "reader", "ls", "/models") == ""  # dockerd asks nobody to mount it
    (found,) = lost()
    assert found["name"] == "docker-mounts"
    assert "reader" in found["what"]
    docker("rm", "-f", "reader")
    assert lost() == []


def test_a_build_takes_files_from_a_model(
    docker: Docker, machine: Machine, model: PushedModel
) -> None:
    docker("pull", model.tag)
    context = machine.directory("context")
    (context / "Dockerfile").write_text(
        f"FROM {ROOTFS_IMAGE}\n"
        f"COPY --from={model.tag} /config.json /models/\n"
        f"RUN --network=none --mount=type=bind,from={model.tag},target=/mnt "
        "sha256sum /mnt/config.json > /sum\n"
    )
    docker("build", "-t", "built:1", str(context))
    sums = docker("run", "--rm", "built:1", "sh", "-c", "sha256sum /models/config.json; cat /sum")
    assert [line.split()[0] for line in sums.splitlines()] == [model.sums["config.json"]] * 2
    (context / "Dockerfile").write_text(f"FROM {model.tag}\nCOPY Dockerfile /added\n")
    docker("build", "-t", "built:2", str(context))
    assert run(docker, "built:2", "ls /models | wc -l") == str(len(model.sums) + 1)
