"""Kubelet and the credentials it may share: facts, and what they mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snapshotter.doctor import kubelet, secret_sources
from snapshotter.doctor.finding import Finding, Level
from snapshotter.registry.options import CredentialProvider, RegistryOptions

OURS = Path("/run/modelpack-snapshotter/cri.sock")


def node(root: Path, config: str | None, command: str | None) -> kubelet.KubeletFacts:
    if config is not None:
        (root / "config.yaml").write_text(config)
    if command is not None:
        (root / "12").mkdir()
        (root / "12" / "comm").write_text("kubelet\n")
        (root / "12" / "cmdline").write_text(command)
    return kubelet.gather(root / "config.yaml", root)


@pytest.mark.parametrize(
    ("config", "command", "expected"),
    [
        (None, None, (False, "")),
        ("kind: KubeletConfiguration\n", None, (True, "")),
        ('imageServiceEndpoint: "unix:///a.sock"  # ours\n', None, (True, "unix:///a.sock")),
        ("x: {imageServiceEndpoint: no}\n", None, (True, "")),
        (None, "/usr/bin/kubelet\0--v=2\0", (True, "")),
        (
            "imageServiceEndpoint: unix:///a.sock\n",
            "kubelet\0--image-service-endpoint=unix:///b.sock\0--v=2\0",
            (True, "unix:///b.sock"),
        ),
        (None, "kubelet\0--image-service-endpoint\0/c.sock\0", (True, "/c.sock")),
    ],
)
def test_kubelets_image_service_is_found_in_its_file_and_its_flags(
    tmp_path: Path, config: str | None, command: str | None, expected: tuple[bool, str]
) -> None:
    facts = node(tmp_path, config, command)
    assert (facts.there, facts.endpoint) == expected


@pytest.mark.parametrize(
    ("there", "endpoint", "enabled", "level"),
    [
        (False, "", True, None),
        (True, "", False, None),
        (True, f"unix://{OURS}", True, Level.OK),
        (True, str(OURS), True, Level.OK),
        (True, f"unix://{OURS}", False, Level.ERROR),
        (True, "", True, Level.WARNING),
        (True, "unix:///other.sock", True, Level.WARNING),
    ],
)
def test_kubelet_asks_what_is_served(
    there: bool, endpoint: str, enabled: bool, level: Level | None
) -> None:
    facts = kubelet.KubeletFacts(there, endpoint)
    found: list[Finding] = kubelet.judge(facts, OURS, enabled=enabled)
    assert [finding.level for finding in found] == ([level] if level else [])


def test_secrets_and_providers_that_are_not_there_are_told(tmp_path: Path) -> None:
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir()
    empty.mkdir()
    auths = {"*.example": {"username": "alice", "password": "alice-password"}}
    (full / ".dockerconfigjson").write_text(json.dumps({"auths": auths}))
    options = RegistryOptions(
        pull_secrets=(str(full), str(empty), str(tmp_path / "none")),
        credential_providers={
            "there": CredentialProvider(path="/bin/true", match_images=("r.example",)),
            "gone": CredentialProvider(path="/nonexistent/provider", match_images=("r.example",)),
        },
    )
    found = secret_sources.judge(secret_sources.gather(options))
    assert [finding.level for finding in found] == [
        Level.OK,
        Level.WARNING,
        Level.WARNING,
        Level.OK,
        Level.WARNING,
    ]
    assert "*.example" in found[0].what
    assert "alice-password" not in repr(found)
