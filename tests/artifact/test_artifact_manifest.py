from __future__ import annotations

import json

import pytest
from artifact_samples import MODEL_TYPE, OCI_INDEX, digest, layer, manifest_bytes, model
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import (
    LAYER_LIMIT,
    MANIFEST_LIMIT,
    Index,
    Manifest,
    choose,
    is_model,
    parse,
)

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")


def index_of(*entries: dict[str, object], **changes: object) -> Index:
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries} | changes
    index = parse(json.dumps(document).encode())
    assert isinstance(index, Index)
    return index


def entry(content: bytes, platform: str | None = None, **changes: object) -> dict[str, object]:
    fields: dict[str, object] = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(content),
        "size": len(content),
    }
    if platform is not None:
        names = ("os", "architecture", "variant")
        fields["platform"] = dict(zip(names, platform.split("/"), strict=False))
    return fields | changes


def test_a_model_manifest_is_read() -> None:
    raw = manifest_bytes([layer(b"abc", "a.bin")], annotations={"k": "v"})
    manifest = parse(raw, digest(raw))
    assert isinstance(manifest, Manifest)
    assert manifest.digest == digest(raw)
    assert manifest.artifact_type == MODEL_TYPE
    assert manifest.layers[0].size == 3
    assert manifest.layers[0].annotations["org.cncf.model.filepath"] == "a.bin"
    assert manifest.annotations == {"k": "v"}
    assert manifest.raw == raw
    assert is_model(manifest)


def test_artifact_type_or_config_type_alone_makes_a_model() -> None:
    plain = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2}
    assert is_model(model(config=plain))
    for kind in ("cncf.model.config.v1", "cnai.model.config.v1", "docker.ai.model.config.v0.2"):
        config = plain | {"mediaType": f"application/vnd.{kind}+json"}
        assert is_model(model(config=config, artifactType=...))
    image = plain | {"mediaType": "application/vnd.oci.image.config.v1+json"}
    assert not is_model(model(config=image, artifactType=...))


def test_go_writes_null_for_what_is_empty() -> None:
    raw = manifest_bytes(None, annotations=None, artifactType=None)
    assert isinstance(parse(raw), Manifest)


def test_content_other_than_asked_for_is_refused() -> None:
    raw = manifest_bytes([])
    with pytest.raises(ArtifactError, match="other content"):
        parse(raw, digest(raw + b" "))


def test_a_sha512_digest_is_verified_by_its_own_algorithm() -> None:
    with pytest.raises(ArtifactError, match="sha512:"):
        parse(manifest_bytes([]), Digest("sha512:" + "0" * 128))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "no OCI manifest"),
        (b"[]", "no OCI manifest"),
        (b"\xff\xfe", "no OCI manifest"),
        (b"[" * 200_000, "no OCI manifest"),
        (b'{"schemaVersion":1,"config":{}}', "no OCI manifest"),
        (b'{"schemaVersion":1}', "schemaVersion 1"),
        (b'{"schemaVersion":2}', "no config"),
        (manifest_bytes([], manifests=[]), "ambiguous"),
        (manifest_bytes([], mediaType=OCI_INDEX), "media type"),
        (manifest_bytes([layer(b"", "a") | {"size": -1}]), "size -1"),
        (manifest_bytes([layer(b"", "a") | {"size": 2**63}]), "no OCI manifest|size"),
        (manifest_bytes([layer(b"", "a") | {"digest": "md5:0"}]), "number 1: 'md5:0' is no digest"),
        (manifest_bytes([layer(b"", "a") | {"annotations": {"a": 1}}]), "no OCI manifest"),
        (b" " * (MANIFEST_LIMIT + 1), "at most"),
    ],
)
def test_what_is_no_manifest_is_refused_with_one_line(raw: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        parse(raw)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_more_layers_than_the_limit_are_refused() -> None:
    one = layer(b"", None)
    assert len(model(*[one] * LAYER_LIMIT).layers) == LAYER_LIMIT
    with pytest.raises(ArtifactError, match="too many"):
        model(*[one] * (LAYER_LIMIT + 1))


def test_a_single_real_platform_is_chosen_whatever_it_says() -> None:
    attestation = entry(b"b", "unknown/unknown")
    assert choose(index_of(attestation, entry(b"a", "linux/arm64")), AMD64).digest == digest(b"a")
    assert choose(index_of(entry(b"a")), AMD64).digest == digest(b"a")


def test_an_attestation_known_by_its_annotation_alone_is_ignored() -> None:
    attestation = entry(b"b", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    assert choose(index_of(attestation, entry(b"a")), AMD64).digest == digest(b"a")


def test_of_several_platforms_ours_is_chosen() -> None:
    index = index_of(entry(b"a", "linux/amd64"), entry(b"b", "linux/arm64/v8"))
    assert choose(index, AMD64).digest == digest(b"a")
    assert choose(index, ARM64).digest == digest(b"b")
    assert choose(index, Platform("linux", "aarch64")).digest == digest(b"b")


def test_an_exact_variant_goes_before_one_left_out() -> None:
    index = index_of(
        entry(b"a", "linux/arm"), entry(b"b", "linux/arm/v6"), entry(b"c", "linux/arm/v7")
    )
    assert choose(index, Platform("linux", "arm", "v7")).digest == digest(b"c")
    assert choose(index, Platform("linux", "arm", "v5")).digest == digest(b"a")


def test_an_index_without_our_platform_names_those_there_are() -> None:
    index = index_of(entry(b"a", "linux/amd64"), entry(b"b", "linux/arm64"))
    with pytest.raises(ArtifactError, match=r"linux/riscv64: it has linux/amd64, linux/arm64;"):
        choose(index, Platform("linux", "riscv64"))


def test_an_index_with_attestations_only_has_nothing_to_choose() -> None:
    with pytest.raises(ArtifactError, match="lists no manifest"):
        choose(index_of(entry(b"a", "unknown/unknown")), AMD64)


def test_an_index_of_models_says_so_itself_or_by_its_entries() -> None:
    assert is_model(index_of(artifactType="application/vnd.cncf.model.index.v1+json"))
    assert is_model(index_of(entry(b"a", artifactType=MODEL_TYPE)))
    assert not is_model(index_of(entry(b"a", "linux/amd64")))


def test_where_an_index_mixes_images_and_models_the_model_is_chosen() -> None:
    index = index_of(
        entry(b"a", "linux/amd64"), entry(b"b", "linux/arm64", artifactType=MODEL_TYPE)
    )
    assert choose(index, AMD64).digest == digest(b"b")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_input_is_read_or_refused_and_nothing_else(raw: bytes) -> None:
    try:
        parse(raw)
    except ArtifactError:
        pass


FIELDS = ("mediaType", "artifactType", "config", "layers", "manifests", "annotations")


@given(
    st.dictionaries(st.sampled_from((*FIELDS, "schemaVersion")), JSON, max_size=4),
    st.dictionaries(
        st.sampled_from(("digest", "size", "mediaType", "annotations", "platform")),
        JSON,
        max_size=2,
    ),
)
def test_a_manifest_with_any_field_replaced_is_read_or_refused(
    changes: dict[str, object], descriptor: dict[str, object]
) -> None:
    raw = manifest_bytes(**{"layers": [layer(b"abc", "a") | descriptor]} | changes)
    try:
        document = parse(raw)
        is_model(document)
        if isinstance(document, Index):
            choose(document, AMD64)
    except ArtifactError:
        pass
