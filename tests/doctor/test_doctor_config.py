"""`modelpack config`: what it prints, against the files of config/containerd/."""

from __future__ import annotations

import json
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hatchling.build import build_wheel

from snapshotter.cli.main import cli
from snapshotter.config import Config, parse_config
from snapshotter.doctor.samples import SAMPLES, containerd_toml, hosts_toml, k3s_files, sample_for
from snapshotter.errors import ModelpackError
from snapshotter.images.platform import host_platform

REPOSITORY = Path(__file__).parents[2]


def config(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["config", *arguments])


def files(*arguments: str) -> dict[str, str]:
    """Path to text of what is printed."""
    result = config(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return {file["path"]: file["text"] for file in json.loads(result.stdout)}


@pytest.mark.parametrize("version", ["1.6", "1.7", "2.1"])
def test_for_a_node_as_in_the_samples_the_samples_are_printed(version: str) -> None:
    printed = containerd_toml(Config(), tuple(map(int, version.split("."))), "amd64", False)  # type: ignore[arg-type]
    assert printed == (REPOSITORY / f"config/containerd/config-{version}.toml").read_text()


@pytest.mark.parametrize(
    ("version", "sample"), [("1.6.20", "1.6"), ("v1.7.24", "1.7"), ("2.0", "1.7"), ("2.3", "2.1")]
)
def test_each_version_has_its_sample(version: str, sample: str) -> None:
    text = files("containerd", "--containerd-version", version)["/etc/containerd/config.toml"]
    assert text.splitlines()[0].startswith(f"# containerd {sample}")


@pytest.mark.parametrize("version", ["1.5", "new", ""])
def test_a_version_nobody_can_configure_is_refused(version: str) -> None:
    assert config("containerd", "--containerd-version", version).exit_code == 2


def test_paths_and_architecture_are_this_nodes() -> None:
    here = parse_config(
        {
            "root": '/disk "1"/modelpack',
            "grpc": {"address": "/srv/m/s.sock"},
            "mirror": {"address": "127.0.0.1:9999"},
        },
        "test",
    )
    document = tomllib.loads(containerd_toml(here, (2, 1), "arm64", True))
    proxy = document["proxy_plugins"]["modelpack"]
    assert proxy["address"] == "/srv/m/s.sock"
    assert proxy["exports"]["root"] == '/disk "1"/modelpack'
    assert document["plugins"]["io.containerd.cri.v1.images"]["snapshotter"] == "modelpack"
    entries = document["plugins"]["io.containerd.transfer.v1.local"]["unpack_config"]
    assert {entry["platform"] for entry in entries} == {"linux/arm64"}


@pytest.mark.parametrize("version", [(1, 6), (1, 7), (2, 1)])
def test_every_sample_can_make_modelpack_the_default(version: tuple[int, int]) -> None:
    text = containerd_toml(Config(), version, "amd64", True)
    assert text.count('\n  snapshotter = "modelpack"\n') >= 1
    assert "# snapshotter" not in text


def test_a_registry_gets_its_hosts_toml() -> None:
    text = files("containerd", "--containerd-version", "2.1", "--registry", "r.example:5000")[
        "/etc/containerd/certs.d/r.example:5000/hosts.toml"
    ]
    document = tomllib.loads(text)
    assert document["server"] == "https://r.example:5000"
    assert list(document["host"]) == ["http://127.0.0.1:7670"]
    assert config("containerd", "--registry", "../etc").exit_code == 2


def test_a_registry_without_tls_is_named_as_the_daemon_reaches_it() -> None:
    told = parse_config({"registry": {"plain_http": ["r.example:5000"]}}, "a test")
    for registry in ("127.0.0.1:5000", "r.example:5000"):
        document = tomllib.loads(hosts_toml(told, registry))
        assert document["server"] == f"http://{registry}"


def test_docker_is_told_in_its_own_places() -> None:
    printed = files("docker", "--containerd-version", "2.1", "--registry", "docker.io")
    daemon = json.loads(printed["/etc/docker/daemon.json"])
    assert daemon["storage-driver"] == "modelpack"
    hosts = tomllib.loads(printed["/etc/docker/certs.d/docker.io/hosts.toml"])
    assert hosts["server"] == "https://registry-1.docker.io"
    assert "/etc/containerd/config.toml" in printed


def test_the_daemon_of_a_k3s_node_is_pointed_at_k3s() -> None:
    printed = {file.path: file.text for file in k3s_files(Config(), "amd64", ["r.example"])}
    table: dict[str, Any] = tomllib.loads(printed["/etc/modelpack-snapshotter/config.toml"])
    daemon = parse_config(table, "test")
    assert daemon.containerd.address == "/run/k3s/containerd/containerd.sock"
    assert daemon.mirror.pinned == "pass"
    assert daemon.registry.certs_d == ("/var/lib/rancher/k3s/agent/etc/containerd/certs.d",)
    assert '"r.example":' in printed["/etc/rancher/k3s/registries.yaml"]


def test_kubelet_is_told_of_image_volumes() -> None:
    printed = files("kubelet")
    assert "ImageVolume: true" in printed["/var/lib/kubelet/config.yaml"]


def test_files_are_written_once_and_never_over_another(tmp_path: Path) -> None:
    arguments = ["containerd", "--containerd-version", "2.1", "--write", str(tmp_path)]
    assert config(*arguments).exit_code == 0
    assert config(*arguments).exit_code == 0
    written = tmp_path / "etc/containerd/config.toml"
    architecture = host_platform().architecture
    assert written.read_text() == containerd_toml(Config(), (2, 1), architecture, False)
    written.write_text("version = 3\n")
    refused = config(*arguments, "--registry", "r.example")
    assert isinstance(refused.exception, ModelpackError)
    assert written.read_text() == "version = 3\n"
    assert not (tmp_path / "etc/containerd/certs.d").exists()


def test_the_samples_are_part_of_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))) as wheel:
        for version in ((1, 6), (1, 7), (2, 1)):
            name = sample_for(version)
            assert (
                wheel.read(f"snapshotter/samples/{name}").decode() == (SAMPLES / name).read_text()
            )
        assert "snapshotter/samples/certs.d/registry.example.com/hosts.toml" in wheel.namelist()
