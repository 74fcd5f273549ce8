"""The configuration of a node's programs, made from the files of config/containerd/.

Those files are the one source: here only default paths, addresses and the architecture
are exchanged for this node's. Pure, but for reading the samples.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.config import Config
from snapshotter.registry.hosts import default_url

SAMPLES = Path(__file__).parents[1] / "samples"
NAME = "modelpack"
"""What containerd knows the snapshotter by."""
CERTS_D = "/etc/containerd/certs.d"
DOCKER_CERTS_D = "/etc/docker/certs.d"
DAEMON_CONFIG = "/etc/modelpack-snapshotter/config.toml"
CONTAINERD_CONFIG = "/etc/containerd/config.toml"
_ORDER = "containerd-modelpack.conf"
_K3S = "/var/lib/rancher/k3s/agent/etc/containerd"
_K3S_ADDRESS = "/run/k3s/containerd/containerd.sock"


@dataclass(frozen=True, slots=True)
class File:
    """A file for this node."""

    path: str
    text: str
    notes: tuple[str, ...] = ()
    """What to do with it, lines of at most some 90 characters."""


def containerd_files(
    config: Config,
    version: tuple[int, int],
    architecture: str,
    registries: Sequence[str] = (),
    *,
    default: bool = False,
) -> list[File]:
    """``default``: every pod's snapshotter, instead of a runtime handler's only."""
    notes: tuple[str, ...]
    if version >= (2, 1):
        notes = (
            "Merge into it; or put it into /etc/containerd/conf.d/modelpack.toml as it is, and",
            'have `imports = ["/etc/containerd/conf.d/*.toml"]` at the top of config.toml.',
            "Then: systemctl restart containerd",
        )
    else:
        notes = ("Merge into it. Then: systemctl restart containerd",)
    return [
        File(CONTAINERD_CONFIG, containerd_toml(config, version, architecture, default), notes),
        File("/etc/systemd/system/containerd.service.d/modelpack.conf", _sample(_ORDER)),
        *hosts_files(config, registries, CERTS_D),
    ]


def docker_files(
    config: Config, version: tuple[int, int], architecture: str, registries: Sequence[str] = ()
) -> list[File]:
    daemon = {"features": {"containerd-snapshotter": True}, "storage-driver": NAME}
    containerd = containerd_toml(config, version, architecture, False)
    return [
        File(
            "/etc/docker/daemon.json",
            json.dumps(daemon, indent=2) + "\n",
            (
                "Merge into it. Docker then keeps its images in containerd: those it has now stay",
                "on the disk but are not shown. Then: systemctl restart containerd docker",
            ),
        ),
        File(CONTAINERD_CONFIG, containerd, ("Merge into it: docker's containerd.",)),
        File("/etc/systemd/system/containerd.service.d/modelpack.conf", _sample(_ORDER)),
        *hosts_files(config, registries, DOCKER_CERTS_D),
    ]


def k3s_files(
    config: Config, architecture: str, registries: Sequence[str] = (), *, default: bool = False
) -> list[File]:
    """For a k3s with containerd 2.1 or newer."""
    dropins = f"{_K3S}/config-v3.toml.d"
    order = _sample(_ORDER).replace("containerd.service.d", "k3s.service.d")
    daemon = (
        _exchanged(_sample("modelpack-snapshotter.toml"), config)
        .replace(config.containerd.address, _K3S_ADDRESS)
        .replace('pinned = "refuse"', 'pinned = "pass"')
    )
    daemon = re.sub(r"(?m)^certs_d = .*$", f'certs_d = ["{_K3S}/certs.d"]', daemon)
    files = [
        File(
            f"{dropins}/modelpack.toml",
            containerd_toml(config, (2, 1), architecture, default),
            (
                "k3s's own config.toml has use_local_image_pull = true, with which models are",
                "downloaded as a whole and mounted empty. This file comes after it and says false.",
                f"Where {_K3S}/config.toml has no `imports`, make",
                f"{_K3S}/config-v3.toml.tmpl of these two lines:",
                f'  imports = ["{dropins}/*.toml"]',
                '  {{ template "base" . }}',
                "Then: systemctl restart k3s (agents: k3s-agent)",
            ),
        ),
        File(DAEMON_CONFIG, daemon, ("Then: systemctl restart modelpack-snapshotter",)),
        File(
            "/etc/systemd/system/k3s.service.d/modelpack.conf",
            order,
            ("On agents: /etc/systemd/system/k3s-agent.service.d/modelpack.conf",),
        ),
    ]
    if registries:
        mirrors = "".join(
            f'  {json.dumps(registry)}:\n    endpoint:\n      - "http://{config.mirror.address}"\n'
            for registry in registries
        )
        files.append(
            File(
                "/etc/rancher/k3s/registries.yaml",
                f"mirrors:\n{mirrors}",
                ("Only `k3s ctr` needs it, pods do not. Merge into it; k3s makes certs.d of it.",),
            )
        )
    return files


def kubelet_files(config: Config) -> list[File]:
    lines = ["featureGates:", "  ImageVolume: true"]
    notes = ["Merge into kubelet's KubeletConfiguration. Kubernetes before 1.35 has image volumes"]
    notes += ["switched off; the API server needs the same feature gate."]
    if (cri := config.cri_address) is not None:
        lines.append(f"imageServiceEndpoint: {json.dumps(f'unix://{cri}')}")
        notes += ["imageServiceEndpoint lets the daemon read models with imagePullSecrets."]
    else:
        notes += [
            "Models of private registries by imagePullSecrets: set enabled = true in [cri] of"
        ]
        notes += [f"{DAEMON_CONFIG}, and run this again."]
    runtime_class = (
        "apiVersion: node.k8s.io/v1\nkind: RuntimeClass\n"
        f"metadata:\n  name: {NAME}\nhandler: {NAME}\n"
    )
    return [
        File("/var/lib/kubelet/config.yaml", "\n".join(lines) + "\n", tuple(notes)),
        File(
            "runtimeclass.yaml",
            runtime_class,
            (
                "Once for each cluster: kubectl apply -f runtimeclass.yaml",
                "Pods with models then say `runtimeClassName: modelpack`; not needed where",
                "modelpack is containerd's default snapshotter.",
            ),
        ),
    ]


def hosts_files(config: Config, registries: Sequence[str], certs_d: str) -> list[File]:
    return [
        File(f"{certs_d}/{registry}/hosts.toml", hosts_toml(config, registry))
        for registry in registries
    ]


def containerd_toml(
    config: Config, version: tuple[int, int], architecture: str, default: bool
) -> str:
    """The sample for a containerd of ``version``, with this node's paths."""
    text = _exchanged(_sample(sample_for(version)), config)
    text = text.replace("linux/amd64", f"linux/{architecture}")
    if default:
        text = re.sub(r'(?m)^(\s*)# (snapshotter = "modelpack")$', r"\1\2", text)
    return text


def hosts_toml(config: Config, registry: str) -> str:
    """What makes containerd ask the mirror first for ``registry``, and then the registry."""
    text = _exchanged(_sample("certs.d/registry.example.com/hosts.toml"), config)
    server = default_url(registry, config.registry.plain_http).removesuffix("/v2")
    return text.replace("https://registry.example.com", server)


def sample_for(version: tuple[int, int]) -> str:
    if version >= (2, 1):
        return "config-2.1.toml"
    return "config-1.7.toml" if version >= (1, 7) else "config-1.6.toml"


def _sample(name: str) -> str:
    return (SAMPLES / name).read_text()


def _exchanged(text: str, config: Config) -> str:
    # The socket first: the state directory is a part of its path.
    for default, ours in (
        ("/run/modelpack-snapshotter/snapshotter.sock", str(config.grpc_address)),
        ("/run/modelpack-snapshotter", config.state),
        ("/var/lib/modelpack-snapshotter", config.root),
        ("/run/containerd/containerd.sock", config.containerd.address),
        ("127.0.0.1:7670", config.mirror.address),
    ):
        text = text.replace(default, json.dumps(ours, ensure_ascii=False)[1:-1])
    return text
