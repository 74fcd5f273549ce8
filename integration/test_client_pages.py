"""Each client by the commands of its page in docs/, and by nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from integration.harness.containerd import Containerd, Release, releases
from integration.harness.cri import Cri
from integration.harness.docker import Docker
from integration.harness.docker import program as docker_program
from integration.harness.etc import own_etc
from integration.harness.machine import REPOSITORY, Machine
from integration.harness.model import write_model
from integration.harness.page_commands import commands, run_page
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.rootfs import ROOTFS_IMAGE
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import PushedModel, push_model, read_sums, sums_command
from integration.test_config_command import K3S

SERVER = "server:1"
WITH_MOUNTS = [release for release in releases() if release.version != "1.6"]
K3S_CONTAINERD = "/var/lib/rancher/k3s/agent/etc/containerd"


class Node:
    """A machine on which the pages' commands do what they do on a node."""

    def __init__(self, machine: Machine, places: Places, snapshotter: Snapshotter) -> None:
        self.machine, self.places, self.snapshotter = machine, places, snapshotter
        self.registry = ""
        etc = own_etc(machine, places)
        # `modelpack` reads it without being told.
        text = snapshotter.configuration.read_text()
        (etc / "modelpack-snapshotter" / "config.toml").write_text(text)

    def push(self, registry: Registry) -> PushedModel:
        """The model of the pages, with a directory in it; without a hosts.toml of ours."""
        source = self.machine.root / "model"
        write_model(source, 1 << 20)
        (source / "tokenizer").mkdir()
        (source / "tokenizer" / "tokenizer.json").write_text("{}")
        model = push_model(self.snapshotter, registry, name="models/qwen3", tag="8b")
        shutil.rmtree(self.places.certs / registry.host)
        self.registry = registry.host
        return model

    def exchanged(self, model: PushedModel) -> dict[str, str]:
        return {
            "registry.example.com": self.registry,
            "sha256:DIGEST": model.digest.rpartition("@")[2],
            "/mnt/qwen3": str(self.machine.directory("mnt")),
            "ctr run --rm": f"ctr run --rm --cgroup /{self.machine.cgroup}/server",
        }

    def environment(self, containerd: Containerd) -> dict[str, str]:
        path = f"{PROGRAMS}:{Path(docker_program('docker')).parent}"
        return {
            **self.snapshotter.environment,
            **containerd.environment,
            "PATH": f"{path}:{containerd.environment['PATH']}",
            "HOME": self.snapshotter.environment["HOME"],
        }

    def speak_plain_http(self) -> None:
        """The tests' registry has no certificate; what is printed is for those that do."""
        for directory in (self.places.certs, self.places.docker_certs):
            for hosts in directory.glob("*/hosts.toml"):
                text = hosts.read_text()
                hosts.write_text(
                    text.replace(f"https://{self.registry}", f"http://{self.registry}")
                )


@pytest.fixture
def node(machine: Machine, places: Places, snapshotter: Snapshotter) -> Node:
    return Node(machine, places, snapshotter)


def restarting(containerd: Containerd) -> Callable[[Sequence[str]], None]:
    def restart(services: Sequence[str]) -> None:
        assert services == ["containerd"]
        containerd.stop()
        containerd.start()

    return restart


def found(printed: Mapping[str, str], beginning: str) -> list[str]:
    """What the commands with this beginning printed."""
    return [output for command, output in printed.items() if command.startswith(beginning)]


def test_docker(node: Node, newest_containerd: Containerd, registry: Registry) -> None:
    model = node.push(registry)
    started: list[Docker] = []
    newest_containerd.import_rootfs(namespace="moby")
    newest_containerd.ctr(
        "images", "tag", ROOTFS_IMAGE, f"{registry.host}/{SERVER}", namespace="moby"
    )

    def restart(services: Sequence[str]) -> None:
        assert services == ["containerd", "docker"]
        newest_containerd.stop()
        newest_containerd.start()
        started.append(Docker(newest_containerd))  # by the daemon.json that is there now

    try:
        printed = run_page(
            "docker.md",
            node.machine,
            environment=node.environment(newest_containerd),
            exchanged=node.exchanged(model),
            restart=restart,
            after=node.speak_plain_http,
        )
    finally:
        for docker in started:
            docker.stop()
    assert found(printed, "docker info") == ["modelpack\n"]
    by_tag, part, by_digest = found(printed, "docker run")
    names = sorted({path.partition("/")[0] for path in model.sums})
    assert sorted(by_tag.split()) == sorted(by_digest.split()) == names
    assert part.split() == ["tokenizer.json"]


@pytest.mark.parametrize("release", WITH_MOUNTS, ids=str)
def test_ctr(node: Node, places: Places, release: Release, registry: Registry) -> None:
    model = node.push(registry)
    with Containerd(node.machine, release, places) as containerd:
        containerd.import_rootfs()
        containerd.ctr("images", "tag", ROOTFS_IMAGE, f"{registry.host}/{SERVER}")
        printed = run_page(
            "ctr.md",
            node.machine,
            environment=node.environment(containerd),
            exchanged=node.exchanged(model),
            restart=restarting(containerd),
            after=node.speak_plain_http,
        )
    names = sorted({path.partition("/")[0] for path in model.sums})
    for listing in (*found(printed, "ctr run"), *found(printed, "ls")):
        assert sorted(listing.split()) == names


NERDCTL = shutil.which("nerdctl")


def nerdctl_version() -> tuple[int, ...]:
    assert NERDCTL is not None
    said = subprocess.run([NERDCTL, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", said.stdout)
    assert found is not None, said.stdout
    return tuple(map(int, found.groups()))


def test_what_the_page_of_nerdctl_says_of_other_commands(
    node: Node, newest_containerd: Containerd, registry: Registry
) -> None:
    """All but nerdctl's own, which are run below; what they need is in test_nerdctl.py."""
    model = node.push(registry)
    newest_containerd.import_rootfs()
    printed = run_page(
        "nerdctl.md",
        node.machine,
        environment=node.environment(newest_containerd),
        exchanged=node.exchanged(model),
        restart=restarting(newest_containerd),
        leave_out=lambda command: command.startswith("nerdctl"),
        after=node.speak_plain_http,
    )
    assert len(found(printed, "modelpack pull")) == 1


@pytest.mark.skipif(NERDCTL is None, reason="no nerdctl on PATH: its commands are not run")
def test_nerdctl(node: Node, newest_containerd: Containerd, registry: Registry) -> None:
    model = node.push(registry)
    machine = node.machine
    newest_containerd.import_rootfs()
    newest_containerd.ctr("images", "tag", ROOTFS_IMAGE, f"{registry.host}/{SERVER}")
    own = machine.seen(Path("/etc")) / "nerdctl"
    own.mkdir()
    (own / "nerdctl.toml").write_text(
        f'data_root = "{machine.directory("nerdctl")}"\n'
        f'cni_netconfpath = "{machine.directory("nerdctl-cni")}"\n'
        'cgroup_manager = "cgroupfs"\n'
    )
    environment = node.environment(newest_containerd)
    has_image_mounts = nerdctl_version() > (2, 3, 4)
    printed = run_page(
        "nerdctl.md",
        machine,
        environment=environment,
        exchanged={
            **node.exchanged(model),
            " --rm --network none": f" --rm --network none --cgroup-parent /{machine.cgroup}",
        },
        restart=restarting(newest_containerd),
        leave_out=lambda command: "type=image" in command and not has_image_mounts,
        after=node.speak_plain_http,
    )
    names = sorted({path.partition("/")[0] for path in model.sums})
    listings = found(printed, "nerdctl run") + found(printed, "nerdctl --snapshotter modelpack run")
    assert len(listings) == 1 + has_image_mounts
    for listing in listings:
        assert sorted(listing.split()) == names
    assert model.tag not in newest_containerd.ctr("images", "ls", "-q").split()  # nerdctl rmi


def test_k3s(node: Node, newest_containerd: Containerd, registry: Registry) -> None:
    model = node.push(registry)
    machine, snapshotter, containerd = node.machine, node.snapshotter, newest_containerd
    agent = machine.directory("k3s")
    exchanged = {K3S_CONTAINERD: str(agent), **node.exchanged(model)}

    def restart(services: Sequence[str]) -> None:
        assert services == ["modelpack-snapshotter", "k3s"]
        asked = ("config", "k3s", "--registry", registry.host, "--json")
        files = {file["path"]: file["text"] for file in json.loads(snapshotter.modelpack(*asked))}
        dropin = files[f"{K3S_CONTAINERD}/config-v3.toml.d/modelpack.toml"]
        (agent / "modelpack.toml").write_text(dropin)
        write_as_k3s(agent / "certs.d", files["/etc/rancher/k3s/registries.yaml"])
        daemon = files["/etc/modelpack-snapshotter/config.toml"]
        daemon = daemon.replace(K3S_CONTAINERD, str(agent))
        daemon = daemon.replace("/run/k3s/containerd/containerd.sock", str(node.places.containerd))
        containerd.stop()
        snapshotter.stop()
        snapshotter.configuration.write_text(daemon)
        snapshotter.start()
        containerd.configuration.write_text(
            K3S.format(
                dropins=agent,
                directory=machine.directory("containerd"),
                address=node.places.containerd,
                sandbox=ROOTFS_IMAGE,
                certs=agent / "certs.d",
            )
        )
        containerd.start()

    printed = run_page(
        "k3s.md",
        machine,
        environment=node.environment(containerd),
        exchanged={"k3s ctr": "ctr --namespace k8s.io", **exchanged},
        restart=restart,
    )
    names = sorted({path.partition("/")[0] for path in model.sums})
    assert [sorted(listing.split()) for listing in found(printed, "ls")] == [names]

    assert_pod_of_page_reads("k3s.md", containerd, registry, model)


def test_kubernetes(node: Node, newest_containerd: Containerd, registry: Registry) -> None:
    model = node.push(registry)
    printed = run_page(
        "kubernetes.md",
        node.machine,
        environment=node.environment(newest_containerd),
        exchanged=node.exchanged(model),
        restart=restarting(newest_containerd),
    )
    by_handler, by_default = found(printed, "modelpack config containerd")
    assert 'snapshotter = "modelpack"' in by_handler
    assert by_handler != by_default
    assert "ImageVolume: true" in printed["modelpack config kubelet"]
    (examined,) = found(printed, "modelpack doctor")
    assert registry.host in examined
    assert_pod_of_page_reads("kubernetes.md", newest_containerd, registry, model)


def assert_pod_of_page_reads(
    page: str, containerd: Containerd, registry: Registry, model: PushedModel
) -> None:
    """The pod that the page shows, as kubelet asks containerd for it."""
    pod = (REPOSITORY / "docs" / page).read_text()
    said = dict(re.findall(r"^ *(runtimeClassName|mountPath|reference): (\S+)", pod, re.MULTILINE))
    with Cri(containerd) as cri:
        pulled = cri.pull(said["reference"].replace("registry.example.com", registry.host))
        with cri.pod(handler=said["runtimeClassName"]) as running:
            container = running.run(volumes={said["mountPath"]: pulled})
            listed = container.exec("sh", "-c", sums_command(said["mountPath"]))
    assert read_sums(listed, said["mountPath"]) == model.sums


def write_as_k3s(certs: Path, registries: str) -> None:
    """What k3s makes of registries.yaml: a hosts.toml for each mirror of a registry."""
    mirrors = re.findall(r'^  "(.+)":\n    endpoint:\n      - "(.+)"$', registries, re.MULTILINE)
    assert mirrors
    for host, endpoint in mirrors:
        (certs / host).mkdir(parents=True)
        (certs / host / "hosts.toml").write_text(
            "# File generated by k3s. DO NOT EDIT.\n\n"
            f'server = "http://{host}/v2"\ncapabilities = ["pull", "resolve", "push"]\n\n'
            f'[host]\n[host."{endpoint}/v2"]\n  capabilities = ["pull", "resolve"]\n'
        )


RUN = {"docker.md", "ctr.md", "nerdctl.md", "k3s.md", "kubernetes.md"}
"""The pages whose commands are run above, every one of them: :func:`run_page`."""


def test_every_client_has_a_page_and_every_page_is_run() -> None:
    text = (REPOSITORY / "docs" / "install.md").read_text()
    section = text[text.index("## 4. Use it") : text.index("Without containerd:")]
    assert set(re.findall(r"\]\(([^)]+\.md)\)", section)) == RUN
    run = set(re.findall(r'run_page\(\s*"([^"]+)"', Path(__file__).read_text()))
    assert run == RUN


@pytest.mark.parametrize("page", sorted(RUN))
def test_every_command_of_a_page_stands_where_it_is_found(page: str) -> None:
    """Not in a block of another name or an indented one, which nobody would run."""
    text = (REPOSITORY / "docs" / page).read_text()
    for indented, language in re.findall(r"^([ \t]*)```(\S+)", text, re.MULTILINE):
        assert (indented, language) in {("", "sh"), ("", "toml"), ("", "yaml")}


@pytest.mark.parametrize("page", sorted(RUN))
def test_each_page_names_the_same_example(page: str) -> None:
    for command in commands(page):
        for name in re.findall(r"registry\.example\.com/(\S+?)(?=[,\s]|$)", command):
            assert name in (SERVER, "models/qwen3:8b", "models/qwen3@sha256:DIGEST")
