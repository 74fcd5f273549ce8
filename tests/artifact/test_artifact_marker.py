from __future__ import annotations

import json

import pytest

from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef, decode_marker, encode_marker

REF = ModelRef("registry.example.com:5000", "models/qwen3", digest_of(b"m"))


def changed(**fields: object) -> bytes:
    return json.dumps({**json.loads(encode_marker(REF)), **fields}).encode()


def test_a_marker_is_read_as_it_was_written() -> None:
    assert decode_marker(encode_marker(REF)) == REF


@pytest.mark.parametrize("registry", ["../../run/x", "r.example/x", "a b", "user:pw@r.example", ""])
def test_a_marker_whose_registry_leads_out_of_certs_d_is_refused(registry: str) -> None:
    with pytest.raises(ArtifactError, match="expected a registry"):
        decode_marker(changed(registry=registry))


@pytest.mark.parametrize("repository", ["a/../../v2/token", "m?x=", "m#", "m\n", "/m", "M", ""])
def test_a_marker_whose_repository_leads_elsewhere_in_the_registry_is_refused(
    repository: str,
) -> None:
    with pytest.raises(ArtifactError, match="expected a registry and a repository") as caught:
        decode_marker(changed(repository=repository))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"[" * 4000, b"\xff", changed(registry=1), changed(manifest=[])]
)
def test_what_is_no_marker_is_an_error_of_artifacts(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="modelpack-model"):
        decode_marker(data)


def test_a_later_format_is_told() -> None:
    with pytest.raises(ArtifactError, match="upgrade"):
        decode_marker(changed(format=3))
