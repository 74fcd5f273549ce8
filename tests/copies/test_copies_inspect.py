"""What `modelpack inspect` and `cat` tell, and how little they fetch for it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from copies_models import Cli, push
from producers import CNCF, FILEPATH, MODEL_CONFIG, Artifact, Pushed, digest, encoded, tar
from registry_process import PASSWORD, USER, RegistryProcess
from tensors_files import entries, gguf, safetensors

from snapshotter.artifact.chunks import CHUNK_LIST
from snapshotter.bench.children.forwarder import Forwarder
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import publish

_LARGE = 24 << 20
_SAFETENSORS = safetensors(entries(first=(0, _LARGE - 5), second=(_LARGE - 5, _LARGE)), _LARGE)
_GGUF = gguf(tensors=[("blk.0.weight", (1024, 1024), 1, 0)], data=_LARGE)


def _weights() -> Pushed:
    artifact = Artifact(b'{"descriptor": {"name": "big", "licenses": ["MIT"]}}', MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.raw", _SAFETENSORS, {FILEPATH: "a.safetensors"})
    artifact.add(f"{CNCF}weight.v1.tar", tar({"b.gguf": _GGUF}), {FILEPATH: "b.gguf"})
    artifact.add(f"{CNCF}doc.v1.raw", b"no weights", {FILEPATH: "broken.safetensors"})
    return artifact.pushed()


@pytest.fixture
def counted(docker_registry: RegistryProcess) -> Iterator[Forwarder]:
    """The registry, behind something that counts the bytes it answers."""
    host, port = docker_registry.address.split(":")
    forwarder = Forwarder((host, int(port)), 0.0)
    yield forwarder
    forwarder.close()


def test_tensors_are_listed_from_headers_alone(
    cli: Cli, docker_registry: RegistryProcess, counted: Forwarder
) -> None:
    push(docker_registry, "inspect/weights", _weights())
    reference = f"{counted.address}/inspect/weights:1"
    told = json.loads(cli("inspect", "--tensors", reference, "--json").stdout)
    assert counted.answered_bytes < 1 << 20
    assert told["fetched_bytes"] < 1 << 20
    first, second, broken = told["tensors"]
    assert [(one["name"], one["dtype"], one["shape"], one["size"]) for one in first["tensors"]] == [
        ("first", "U8", [_LARGE - 5], _LARGE - 5),
        ("second", "U8", [5], 5),
    ]
    assert first["parameters"] == _LARGE
    assert [
        (one["name"], one["dtype"], one["shape"], one["size"]) for one in second["tensors"]
    ] == [("blk.0.weight", "F16", [1024, 1024], 2 << 20)]
    assert "broken.safetensors" in broken["error"]
    shown = cli("inspect", "--tensors", reference).stdout
    assert "1024 x 1024" in shown
    assert "MIT" in shown


def test_a_part_of_a_file_costs_that_part(
    cli: Cli, docker_registry: RegistryProcess, counted: Forwarder
) -> None:
    push(docker_registry, "inspect/weights", _weights())
    reference = f"{counted.address}/inspect/weights:1"
    part = cli("cat", reference, "b.gguf", "--offset", "1MiB", "--length", "5").stdout_bytes
    assert part == _GGUF[1 << 20 :][:5]
    assert cli("cat", reference, "b.gguf", "--offset", "1GiB").stdout_bytes == b""
    assert counted.answered_bytes < 1 << 20


def test_tensors_in_compressed_layers_are_listed_too(
    cli: Cli, docker_registry: RegistryProcess
) -> None:
    packed = tar({"a.safetensors": _SAFETENSORS, "b.gguf": _GGUF})
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.tar+zstd", encoded(packed, "tar+zstd"), {FILEPATH: "."})
    reference = push(docker_registry, "inspect/compressed", artifact.pushed())
    told = json.loads(cli("inspect", "--tensors", reference, "--json").stdout)
    assert [len(one["tensors"]) for one in told["tensors"]] == [2, 1]


def test_a_large_compressed_layer_is_read_only_when_asked_for(
    cli: Cli, docker_registry: RegistryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapshotter.cli.opened.UNASKED", 1000)
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.tar+zstd", tar_zstd(b"x" * 100), {FILEPATH: "small"})
    artifact.add(f"{CNCF}weight.v1.tar+zstd", tar_zstd(bytes(range(256)) * 999), {FILEPATH: "all"})
    reference = push(docker_registry, "inspect/unasked", artifact.pushed())
    pushed = artifact.layers[1]["size"]
    monkeypatch.setattr("snapshotter.cli.opened.UNASKED", pushed - 1)
    told = json.loads(cli("tree", reference, "--json").stdout)
    assert len(told["files"]) == 1
    assert told["unread_layers"] == [1]
    assert "--unpack" in cli("tree", reference).stdout
    assert "--unpack" in cli("inspect", reference).stdout
    assert len(json.loads(cli("tree", reference, "--unpack", "--json").stdout)["files"]) == 2
    assert len(cli("cat", reference, f"file-{256 * 999}").stdout_bytes) == 256 * 999


def tar_zstd(data: bytes) -> bytes:
    return encoded(tar({f"file-{len(data)}": data}), "tar+zstd")


def test_a_model_of_nothing_but_large_compressed_layers_is_shown(
    cli: Cli, docker_registry: RegistryProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapshotter.cli.opened.UNASKED", 0)
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.tar+zstd", tar_zstd(b"x" * 100), {FILEPATH: "."})
    reference = push(docker_registry, "inspect/only", artifact.pushed())
    assert json.loads(cli("inspect", reference, "--json").stdout)["files"] == []
    assert "--unpack" in cli("inspect", reference).stdout


def test_signatures_sboms_and_chunk_lists_are_listed(
    cli: Cli, docker_registry: RegistryProcess
) -> None:
    reference = Reference.parse(push(docker_registry, "inspect/signed", _weights()))
    registry = Registry(RegistryOptions(certs_d=()))
    subject, raw = registry.manifest(reference)
    for kind in (CHUNK_LIST, "application/vnd.cncf.notary.signature", "application/spdx+json"):
        publish(registry, subject, reference, artifact_type=kind, layers=[("text/plain", b"x")])
    hexadecimal = subject.digest.partition(":")[2]
    signature = Reference(
        reference.registry, reference.repository, f"sha256-{hexadecimal}.sig", None
    )
    registry.put_manifest(signature, subject.media_type, raw)
    registry.close()
    told = json.loads(cli("inspect", str(reference), "--json").stdout)
    assert sorted(one["kind"] for one in told["referrers"]) == [
        "chunk list", "sbom", "signature", "signature",
    ]  # fmt: skip
    assert {one["tag"] for one in told["referrers"]} == {"", signature.tag}
    assert "spdx+json" in cli("inspect", str(reference)).stdout


def test_a_private_registry_is_read_with_dockers_credentials(
    cli: Cli,
    private_registry: RegistryProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(
        json.dumps({"auths": {private_registry.address: {"auth": auth}}})
    )
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    artifact = Artifact(b"{}", MODEL_CONFIG).add(
        f"{CNCF}doc.v1.raw", b"secret", {FILEPATH: "README.md"}
    )
    reference = push(private_registry, "private/model", artifact.pushed())
    assert cli("cat", reference, "README.md").stdout_bytes == b"secret"
    cli("fetch", reference, "-o", str(tmp_path / "out"))
    assert (tmp_path / "out" / "README.md").read_bytes() == b"secret"
    monkeypatch.setenv("DOCKER_CONFIG", "/nonexistent")
    refused = cli("cat", reference, "README.md", fails=True)
    assert "401" in str(refused.exception)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nothing.txt", "has no file 'nothing.txt'"),
        ("x/a.safetensors", "did you mean 'a.safetensors'?"),
    ],
)
def test_a_file_that_is_not_there_is_an_error_with_a_hint(
    cli: Cli, docker_registry: RegistryProcess, path: str, why: str
) -> None:
    reference = push(docker_registry, "inspect/weights", _weights())
    assert why in str(cli("cat", reference, path, fails=True).exception)


@pytest.mark.parametrize("command", [["inspect"], ["tree"], ["fetch", "-o", "out"]])
def test_what_is_no_model_is_an_error(
    cli: Cli, docker_registry: RegistryProcess, command: list[str]
) -> None:
    image = Artifact(b"{}", "application/vnd.oci.image.config.v1+json", artifact_type=None)
    reference = push(docker_registry, "inspect/image", image.pushed())
    failed = cli(command[0], reference, *command[1:], fails=True)
    assert "is no model" in str(failed.exception)


@pytest.mark.parametrize("encoding", ["raw", "tar", "tar+gzip", "tar+zstd"])
def test_wrong_bytes_end_cat_with_3_and_without_the_last_of_them(
    cli: Cli, docker_registry: RegistryProcess, encoding: str
) -> None:
    data = bytes(1000) + b"the end" if encoding == "raw" else b"the end" * 200
    blob = data if encoding == "raw" else encoded(tar({"a.bin": data}), encoding)
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.{encoding}", blob, {FILEPATH: "a.bin"})
    reference = push(docker_registry, f"wrong/{encoding.replace('+', '-')}", artifact.pushed())
    hexadecimal = digest(blob).partition(":")[2]
    stored = docker_registry.storage / (
        f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
    )
    if encoding in ("raw", "tar"):
        wrong = blob.replace(b"the end", b"THE END", 1)
    else:
        wrong = encoded(tar({"a.bin": data.replace(b"the end", b"THE END", 1)}), encoding)
        wrong = wrong[: len(blob)].ljust(len(blob), b"\0")
    stored.write_bytes(wrong)
    found = cli("cat", reference, "a.bin", fails=True)
    assert found.exit_code in (1, 3)  # a stream may be broken before it is known to be wrong
    if encoding in ("raw", "tar"):
        assert found.exit_code == 3
        assert len(found.stdout_bytes) < len(data)
