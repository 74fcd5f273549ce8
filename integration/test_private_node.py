"""A node that has credentials of its own: pull secrets in files, and a credential provider."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from integration.harness.machine import Machine
from integration.harness.pages import DAEMON, toml_block
from integration.harness.places import Places
from integration.harness.private import docker_config, push_private_model
from integration.harness.registry import PASSWORD, USER, Registry
from integration.harness.snapshotter import Snapshotter
from integration.test_cri_proxy import files_with


def mounted_secret(directory: Path, registry: str) -> dict[str, Any]:
    """As kubelet projects a Secret of type kubernetes.io/dockerconfigjson."""
    data = directory / "..2026_01_01"
    data.mkdir(parents=True)
    (data / ".dockerconfigjson").write_text(docker_config(registry))
    (directory / "..data").symlink_to(data.name)
    (directory / ".dockerconfigjson").symlink_to("..data/.dockerconfigjson")
    told = toml_block("kubernetes.md", DAEMON, "pull_secrets")["registry"]
    return {key: [str(directory)] for key in told}


def provider(directory: Path, registry: str) -> dict[str, Any]:
    """A plugin that answers as a cloud's does."""
    directory.mkdir()
    program = directory / "test-credential-provider"
    answer = {
        "kind": "CredentialProviderResponse",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "cacheKeyType": "Registry",
        "cacheDuration": "1h0m0s",
        "auth": {registry: {"username": USER, "password": PASSWORD}},
    }
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "assert json.load(sys.stdin)['kind'] == 'CredentialProviderRequest'\n"
        f"print({json.dumps(answer)!r})\n"
    )
    program.chmod(0o755)
    told = toml_block("kubernetes.md", DAEMON, "credential_providers")["registry"]
    (settings,) = told["credential_providers"].values()
    ours = settings | {"path": str(program), "match_images": [registry]}
    return {"credential_providers": {"test": ours}}


@pytest.mark.parametrize("given", [mounted_secret, provider])
def test_a_private_model_is_pulled_and_read_with_what_the_node_was_given(
    machine: Machine, places: Places, private_registry: Registry, given: Any
) -> None:
    directory = machine.root / "given"
    registry = given(directory, private_registry.host)
    additions = {"registry": registry, "log": {"level": "debug"}}
    with Snapshotter(machine, places, additions=additions) as snapshotter:
        model = push_private_model(snapshotter, private_registry)
        target = machine.directory("mounted")
        snapshotter.modelpack("mount", model.tag, str(target), "--detach")
        shard = next(name for name in model.sums if name.endswith(".safetensors"))
        summed = machine.run(["sha256sum", f"{target}/{shard}"]).stdout.split()[0]
        snapshotter.modelpack("umount", str(target))
    assert summed == model.sums[shard]
    found = files_with(machine.root, PASSWORD.encode())
    assert all(path.is_relative_to(directory) for path in found)
